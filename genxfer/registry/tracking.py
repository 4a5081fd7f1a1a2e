"""One stage's run in MLflow, which people watch while the stage works.

Starting a run fails loudly, before minutes of training are spent. Once it trains, a fault of the tracker must not
cost the training: it is said, and the numbers wait for the next attempt. Knows nothing of what is trained.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from genxfer.registry.config import DatasetRevision, tracking_uri
from genxfer.registry.connection import brief, check_reachable, connect, explained
from genxfer.registry.runs import (
    FINGERPRINT_TAG,
    PARENT_TAG,
    RETRY_AFTER_S,
    STORE_TAG,
    VALUE_LENGTH,
    Status,
    attach_files,
    dataset_inputs,
    end_abandoned,
    metrics_at,
    open_run,
    params_of,
)
from genxfer.report.grid import grid

if TYPE_CHECKING:
    import numpy as np
    from mlflow.entities import Metric

logger = logging.getLogger("genxfer.registry")

PROGRESS_EVERY_S = 5.0
# For a server's sign of life: training stands still meanwhile, and has ten seconds to end after a signal. MLflow itself
# waits for a server that takes connections and does not answer for minutes.
ANSWERS_WITHIN_S = 2.0
METRICS_PER_CALL = 1000  # MLflow's limit
PICTURE_COLUMNS, PICTURE_SCALE, PICTURE_GAP_PX = 8, 2, 2


class TrackedRun:
    """A stage's run as a context: FINISHED at its end, FAILED after an error, KILLED after Ctrl-C or a cancellation.

    A child of `parent_run_id`, or a run of its own. `store` names the one whose lock on `fingerprint` the process
    holds. Speaks the Tracker protocol of genxfer.training.tracker.
    """

    def __init__(
        self,
        name: str,
        *,
        fingerprint: str,
        store: str = "",
        parent_run_id: str | None = None,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        datasets: Sequence[DatasetRevision] = (),
    ) -> None:
        self.name = name
        self.fingerprint, self.store = fingerprint, store
        self.run_id = ""
        self._params = dict(params or {})
        self._tags = {**(tags or {}), FINGERPRINT_TAG: fingerprint, STORE_TAG: store}
        if parent_run_id:
            self._tags[PARENT_TAG] = parent_run_id
        self._datasets = tuple(datasets)
        self._unsent: list[Metric] = []
        self._silent_until_s = 0.0
        self._next_progress_s = 0.0

    def __enter__(self) -> Self:
        """Open the run, and end one that a killed process left open; raises RegistryError."""
        with explained(f"Starting the run {self.name!r}"):
            if ended := end_abandoned(self.fingerprint, self.store):
                self._tags["genxfer.continues"] = ended[0]
            self.run_id = open_run(self.name, self._tags)
            client = connect()
            client.log_batch(self.run_id, params=params_of(self._params))
            if self._datasets:
                client.log_inputs(self.run_id, dataset_inputs(self._datasets))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send what waits and end the run; the error that ends it is never hidden by one of the tracker."""
        # Ctrl-C, SystemExit and Prefect's cancellation are no Exceptions: somebody stopped this run, it did not fail.
        status: Status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
        self._silent_until_s = 0.0
        if not self._attempt(self._check_answers):
            return  # asked once; the next attempt at the same work ends the run, see `end_abandoned`
        if error is not None:
            reason = f"{type(error).__name__}: {error}"[:VALUE_LENGTH]
            self._attempt(lambda: connect().set_tag(self.run_id, "genxfer.error", reason))
        self.close()
        self._silent_until_s = 0.0
        self._attempt(lambda: connect().set_terminated(self.run_id, status))

    def start(self, total_images: int, images_seen: int) -> None:
        """Say how long training will be, and where it begins."""
        self._attempt(lambda: connect().set_tag(self.run_id, "genxfer.images_total", total_images))
        self._attempt(lambda: connect().set_tag(self.run_id, "genxfer.images_seen_at_start", images_seen))

    def log(self, values: Mapping[str, float], images_seen: int) -> None:
        """Show named numbers at `images_seen`, at once."""
        named = {name.lstrip("~"): value for name, value in values.items()}  # the mark of terms that are only watched
        self._unsent += metrics_at(named, step=images_seen)
        self._attempt(self._send)

    def picture(self, name: str, images: "np.ndarray", images_seen: int) -> None:
        """Show images uint8 [N C H W] as one grid, at once; they are dropped while MLflow is out of reach."""
        shown = grid(images, columns=PICTURE_COLUMNS, scale=PICTURE_SCALE, gap=PICTURE_GAP_PX)
        shown = shown[..., 0] if shown.shape[-1] == 1 else shown  # MLflow takes gray images as [H W] only
        self._attempt(lambda: connect().log_image(self.run_id, shown, key=name, step=images_seen, synchronous=True))

    def progress(self, images_seen: int, images_per_s: float) -> None:
        """Show the speed, every few seconds however often it is told."""
        now_s = time.monotonic()
        if now_s >= self._next_progress_s:
            self._next_progress_s = now_s + PROGRESS_EVERY_S
            self.log({"images_per_s": images_per_s}, images_seen)

    def close(self) -> None:
        """Send what still waits."""
        self._attempt(self._send)

    def attach(self, files: Mapping[str, Path]) -> None:
        """Attach files to the run under the given names."""
        self._attempt(lambda: attach_files(self.run_id, files))

    def _send(self) -> None:
        while self._unsent:
            connect().log_batch(self.run_id, metrics=self._unsent[:METRICS_PER_CALL])
            del self._unsent[:METRICS_PER_CALL]

    def _check_answers(self) -> None:
        check_reachable(tracking_uri(), ANSWERS_WITHIN_S)

    def _attempt(self, action: Callable[[], object]) -> bool:
        """Do `action` unless MLflow failed a moment ago, and say whether it was done; any fault is a warning.

        A server that does not answer costs seconds.
        """
        if time.monotonic() < self._silent_until_s:
            return False
        try:
            self._check_answers()
            action()
        except Exception as error:
            self._silent_until_s = time.monotonic() + RETRY_AFTER_S
            logger.warning(
                "MLflow did not take what run %r had to say: %s. The stage goes on.", self.name, brief(error)
            )
            return False
        return True
