"""SQLite databases of the small stack: whether the server that made one has made all of its tables.

Called before a server starts and once it is healthy; knows nothing of what a database holds.
"""

import logging
import tempfile
from pathlib import Path

logger = logging.getLogger("genxfer.stack")


def make_way(database: Path) -> None:
    """Put a database aside whose server was killed while it made the tables: nothing makes them complete later.

    It may also be a good one that was brought back without the file that says so; nothing is removed.
    """
    database.parent.mkdir(parents=True, exist_ok=True)
    files = [] if _complete(database).exists() else list(database.parent.glob(f"{database.name}*"))
    if files:
        aside = Path(tempfile.mkdtemp(prefix="incomplete-", dir=database.parent))
        for file in files:
            file.rename(aside / file.name)
        logger.warning("%s, with no %s beside it, was moved to %s", database, _complete(database).name, aside)


def confirm(database: Path) -> None:
    """Note that the tables of a database are complete."""
    _complete(database).touch()


def _complete(database: Path) -> Path:
    return database.with_suffix(".complete")
