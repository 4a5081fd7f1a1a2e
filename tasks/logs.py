"""What the library says, in the logs of Prefect's runs; what the user has to mend, without a wall of traceback."""

import logging

from prefect.logging.handlers import APILogHandler

from genxfer.errors import GenxferError


class _MessageAlone(logging.Filter):
    """Strip the traceback from a failure that its message explains; those of our own mistakes stay."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if isinstance(error, GenxferError):
            record.msg, record.args = str(error), ()
            record.exc_info = record.exc_text = None
        return True


_message_alone = _MessageAlone()


def connect_logs() -> None:
    """Send the library's log, from INFO up, to the API of the run that it belongs to. May be called again."""
    library = logging.getLogger("genxfer")
    if library.level == logging.NOTSET:
        library.setLevel(logging.INFO)
    if not any(isinstance(handler, APILogHandler) for handler in library.handlers):
        library.addHandler(APILogHandler())
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_message_alone)
