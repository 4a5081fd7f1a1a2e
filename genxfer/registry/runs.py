"""MLflow runs as plain functions: open, close, clean up after the dead, and data sets and numbers in MLflow's form.

Knows nothing of training; `tracking.py` puts a stage's run together from these.
"""

import getpass
import json
import logging
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from genxfer.launch.identity import Identity
from genxfer.registry.config import DatasetRevision, tracking_uri
from genxfer.registry.connection import brief, check_reachable, connect, experiment_id, explained

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Metric, Param, RunTag

logger = logging.getLogger("genxfer.registry")

Status = Literal["FINISHED", "FAILED", "KILLED"]
FINGERPRINT_TAG = "genxfer.fingerprint"
STORE_TAG = "genxfer.store"  # the artifact store whose lock on that fingerprint the run's process held
USED_TAG = "genxfer.used."  # of a flow's run, then STAGE.FINGERPRINT: a result that it used
PROCESS_TAG = "genxfer.process"
PARENT_TAG = "mlflow.parentRunId"
VALUE_LENGTH = 5000  # of a parameter or a tag
RETRY_AFTER_S = 30.0  # a tracker that failed is left alone for so long, so that it cannot slow the work down

_silent_until_s: dict[str, float] = {}  # run -> until when it is not told what is used


def start_parent(name: str, tags: Mapping[str, str] | None = None) -> str:
    """Open the run that the runs of all stages hang below, and return its id; raises RegistryError."""
    with explained(f"Starting the run {name!r}"):
        end_abandoned()
        return open_run(name, tags or {})


def finish_parent(
    run_id: str,
    status: Status,
    metrics: Mapping[str, float] | None = None,
    files: Mapping[str, Path] | None = None,
    used: Iterable[tuple[str, str]] = (),
) -> None:
    """Close a run with its final numbers, its files and the results (stage, fingerprint) that it used.

    A tracker that is gone by now is only worth a warning.
    """
    try:
        client = connect()
        client.log_batch(run_id, metrics=metrics_at(metrics or {}, step=0), tags=used_tags(used))
        attach_files(run_id, files or {})
        client.set_terminated(run_id, status)
    except Exception as error:
        logger.warning(
            "MLflow did not take the end of run %s: %s. The results themselves are safe in the store.",
            run_id,
            brief(error),
        )


def mark_used(run_id: str, stage: str, fingerprint: str) -> None:
    """Say at once that the run uses this result, so that `genxfer gc` leaves it there.

    A tracker that fails is only worth a warning, and seconds; `finish_parent` says all once more.
    """
    if time.monotonic() < _silent_until_s.get(run_id, 0.0):
        return
    try:
        check_reachable(tracking_uri())  # MLflow itself may wait for minutes
        connect().log_batch(run_id, tags=used_tags([(stage, fingerprint)]))
    except Exception as error:
        _silent_until_s[run_id] = time.monotonic() + RETRY_AFTER_S
        logger.warning("MLflow did not take that run %s uses a result of %s: %s", run_id, stage, brief(error))


def used_tags(used: Iterable[tuple[str, str]]) -> "list[RunTag]":
    """Return results (stage, fingerprint) as tags, each as one of its own: so several processes may add to them."""
    from mlflow.entities import RunTag

    return [RunTag(f"{USED_TAG}{stage}.{fingerprint}", "yes") for stage, fingerprint in sorted(set(used))]


def used_in(tags: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the results (stage, fingerprint) that the tags of a run speak of, as `used_tags` writes them."""
    named = (tag.removeprefix(USED_TAG).partition(".") for tag in tags if tag.startswith(USED_TAG))
    return [(stage, fingerprint) for stage, _, fingerprint in named]


def flow_run_of(run_id: str | None) -> str | None:
    """Return which flow run of Prefect the parent run `run_id` stands for, None for none; raises RegistryError."""
    if run_id is None:
        return None
    with explained(f"Looking up the run {run_id}"):
        tags = connect().get_run(run_id).data.tags
    name, flow_run = (tags.get(tag) for tag in ("prefect.flow_run", "prefect.flow_run_id"))
    return f"flow run {name} ({flow_run})" if flow_run else None


def open_run(name: str, tags: Mapping[str, str]) -> str:
    """Create a run that says which process works on it, and return its id."""
    owned = {
        **tags,
        PROCESS_TAG: process_name(os.getpid()) or platform.node(),
        "mlflow.user": _user(),
        "mlflow.source.name": "genxfer",
        "mlflow.source.type": "LOCAL",
    }
    return str(connect().create_run(experiment_id(), tags=owned, run_name=name).info.run_id)


def attach_files(run_id: str, files: Mapping[str, Path]) -> None:
    """Attach files to a run under the given names: the artifact store knows its objects by their digests."""
    if not files:
        return
    with tempfile.TemporaryDirectory(prefix="genxfer-files-") as folder:
        for name, path in files.items():
            shutil.copyfile(path, Path(folder, name))
        connect().log_artifacts(run_id, folder)


def end_abandoned(fingerprint: str | None = None, store: str = "") -> list[str]:
    """End (KILLED) the runs left open by processes that are gone; return the ids of those of `fingerprint` in `store`.

    A killed process cannot end its own run. On this host a process is looked up; on another one we cannot look, but
    whoever works on `fingerprint` holds the lock of its stage in `store`, so an open run of both is a dead one's. In
    another store somebody else may be at the same work.
    """
    client = connect()
    ended = []
    for run in client.search_runs([experiment_id()], "attributes.status = 'RUNNING'", max_results=1000):
        tags = run.data.tags
        same_work = fingerprint is not None and _work_of(tags) == (fingerprint, store)
        if _is_alive(tags.get(PROCESS_TAG, ""), otherwise=not same_work):
            continue
        client.set_terminated(run.info.run_id, "KILLED")
        logger.info("Run %s was left open by a process that is gone; it is now marked as killed.", run.info.run_id)
        if same_work:
            ended.append(run.info.run_id)
    return ended


def _work_of(tags: Mapping[str, str]) -> tuple[str | None, str]:
    """Return the fingerprint and the store that a run's tags name."""
    return tags.get(FINGERPRINT_TAG), tags.get(STORE_TAG, "")


def dataset_inputs(datasets: Iterable[DatasetRevision]) -> "list[DatasetInput]":
    """Return MLflow's form of `datasets`; the whole digest of each stands in its profile."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = []
    for revision in datasets:
        profile = {"n_images": revision.n_images, "sha256": revision.digest, "dvc_md5": revision.dvc_md5}
        dataset = Dataset(
            name=revision.name,
            digest=revision.mlflow_digest,
            source_type="local",
            source=json.dumps({"uri": revision.location}),
            profile=json.dumps(profile),
        )
        inputs.append(DatasetInput(dataset, tags=[InputTag("mlflow.data.context", revision.domain)]))
    return inputs


def metrics_at(values: Mapping[str, float], step: int) -> "list[Metric]":
    """Return MLflow's form of named numbers at `step`, stamped with the present time."""
    from mlflow.entities import Metric

    now_ms = int(time.time() * 1000)
    return [Metric(name, float(value), now_ms, step) for name, value in values.items()]


def params_of(values: Mapping[str, Any]) -> "list[Param]":
    """Return MLflow's form of nested parameters, under dotted names as on the command line."""
    from mlflow.entities import Param

    return [Param(name, str(value)[:VALUE_LENGTH]) for name, value in _flattened(values)]


def _flattened(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def process_name(pid: int) -> str | None:
    """Return host, process id and start: unlike the id alone, never given to another process. None: none runs."""
    identity = Identity.of(pid)
    return f"{platform.node()} {pid} {identity.boot}.{identity.started}" if identity else None


def _is_alive(process: str, otherwise: bool) -> bool:
    """Whether `process` still runs; `otherwise` where that does not answer whether it works on the run."""
    try:
        host, text, _ = process.rsplit(" ", 2)
        pid = int(text)
    except ValueError:
        return otherwise
    return otherwise if host != platform.node() or pid == os.getpid() else process_name(pid) == process


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        return "unknown"
