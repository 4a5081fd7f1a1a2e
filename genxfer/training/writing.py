"""What is said when a file of a run cannot be written: the disk is full, or gives no permission.

For every file that training leaves behind, whoever writes it. Knows nothing of what is in them, and needs no torch.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from genxfer.errors import StoreError


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Turn an OSError within the `with` block into a StoreError: without room, starting again does not help.

    Nothing but files may be written within: a connection that breaks is an OSError too, and another attempt helps.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{what} could not be written: {error.strerror or error}. Make room or give permission, then run the same "
            "command again: it goes on from the last checkpoint."
        ) from error
