"""What a stage is, where it stands, and the one way to run it: look it up, else lock, work, publish.

Everything a stage's result depends on is gathered here into one document (its parameters, the digests of its inputs,
the code it uses, the libraries' versions); the document's hash is the stage's fingerprint, and the store's record of
that fingerprint is its result. Which stages there are, and what they do, is for `stages/` to say: this module knows
no room but the artifact store.
"""

import importlib.metadata
import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from genxfer.artifacts.atomic import write_json_atomic
from genxfer.artifacts.closure import code_digests
from genxfer.artifacts.disk import explaining, keep_only, needing_room
from genxfer.artifacts.fingerprint import build_document, digest_file, fingerprint
from genxfer.artifacts.record import DOCUMENT, Record
from genxfer.artifacts.store import Store
from genxfer.config import Params
from genxfer.errors import DataError, GenxferError
from genxfer.launch.meeting import wait_until_known
from genxfer.launch.nodes import ALONE, Nodes
from genxfer.training.tracker import NullTracker, Tracker

# Tables of which a run uses one entry, named in the stage's `code` (a package, in its `libraries`): another family must
# not change its fingerprint.
REGISTRIES = (
    "genxfer.models.config:FAMILIES",
    "genxfer.transfer.config:METHODS",
    "genxfer.metrics:METRICS",
    "genxfer.metrics:EXTRACTORS",
    "genxfer.metrics:EXTRACTOR_PACKAGES",
)

logger = logging.getLogger("genxfer.pipeline")

State = Literal["ran", "cached"]
Inputs = Mapping[str, tuple[str, ...]]  # upstream stage -> the files of its output that are read


@dataclass(frozen=True)
class Job:
    """What a stage's function is handed: everything it may read, and where it writes."""

    stage: "Stage"
    params: Params
    fingerprint: str
    inputs: Mapping[str, Path]  # "pretrain/snapshot.safetensors" -> a verified file of the store
    upstream: Mapping[str, Record]
    out_dir: Path
    work_dir: Path  # survives an interruption; the next run of this fingerprint finds it again
    parent_run_id: str | None  # of the experiment tracker
    tracker: Tracker = field(default_factory=NullTracker)
    nodes: Nodes = ALONE
    former: Record | None = None  # of this fingerprint, which does not hold here (`Stage.stale`)
    store: str = ""  # what tells the store from others: whose lock is held


@dataclass(frozen=True)
class Stage:
    """A pipeline verb: what its result depends on, and the function that makes it."""

    name: str
    section: str  # of params.yaml
    run: Callable[[Job], dict[str, Any]]  # writes files into job.out_dir and returns small facts for the record
    parameters: Callable[[Params], dict[str, Any]]
    code: Callable[[Params], tuple[str, ...]]  # "module:symbol": where the code that makes the result starts
    inputs: Callable[[Params], Inputs] = lambda params: {}
    raw: Callable[[Params], dict[str, str]] = lambda params: {}  # digests of what is read from outside the store
    fetch: Callable[[Params, Path], dict[str, Path]] = lambda params, folder: {}  # where that lies; may fill `folder`
    libraries: Callable[[Params], tuple[str, ...]] = lambda params: ()  # whose version can change the result
    files: tuple[str, ...] = ()  # of the package, other than Python, that the result depends on
    lineage: bool = False  # whether the upstream fingerprints, not their content alone, are part of the result
    heavy: tuple[str, ...] = ()  # outputs that stay in the store and are not laid out in the working folder
    enabled: Callable[[Params], bool] = lambda params: True
    switch: str = ""  # "section.key=value": what enables it
    stale: Callable[[Params, Record], str | None] = lambda params, record: None  # why a record does not hold here
    guard: Callable[["Plan"], None] = lambda plan: None  # before it works; raises on results that do not go together
    amount: Callable[[Mapping[str, Any]], float] = lambda parameters: 1.0  # of work, to foretell how long it takes
    spreads: bool = False  # whether several hosts may work on it together
    tracked: bool = False  # shown as a run of the experiment tracker while it works
    shown: tuple[str, ...] = ()  # outputs that are attached to that run


# Opens what shows a job's progress, and closes it once the outputs are published.
OpenTracker = Callable[[Job], AbstractContextManager[Tracker]]


def show_nothing(job: Job) -> AbstractContextManager[Tracker]:
    """Open a tracker that shows nothing."""
    return nullcontext(job.tracker)


@dataclass(frozen=True)
class Context:
    """Where a run takes place; nothing here can change a result."""

    store: Store
    open_tracker: OpenTracker = show_nothing
    export_root: Path | None = None  # where the light outputs are laid out, a folder for each stage
    parent_run_id: str | None = None  # of the experiment tracker
    nodes: Nodes = ALONE  # the hosts that work together on a stage that spreads


@dataclass(frozen=True)
class StageResult:
    """How a stage ended: whether it had to work, how long this took, and the record of its outputs."""

    stage: str
    state: State
    fingerprint: str
    seconds: float
    record: Record

    def to_json(self) -> dict[str, Any]:
        """Return the line of the run's summary."""
        return {"state": self.state, "fingerprint": self.fingerprint, "seconds": round(self.seconds, 2)}


@dataclass(frozen=True)
class Standing:
    """Where one stage stands for given parameters, before anything runs."""

    stage: Stage
    waits_for: tuple[str, ...]  # upstream stages without a result; the rest is unknown while there are any
    document: dict[str, Any] | None = None
    record: Record | None = None
    stale: str | None = None  # why the record does not hold here
    upstream: Mapping[str, Record] = field(default_factory=dict)  # whose outputs are the document's inputs

    @cached_property
    def fingerprint(self) -> str | None:
        """The hash of the document, when it is known."""
        return None if self.document is None else fingerprint(self.document)


@dataclass
class Plan:
    """The standing of every stage for one set of parameters; each is looked up once."""

    stages: Mapping[str, Stage]
    params: Params
    store: Store
    _standings: dict[str, Standing] = field(default_factory=dict)

    def enabled(self) -> list[str]:
        """Return the names of the stages that these parameters ask for, in running order."""
        return [name for name, stage in self.stages.items() if stage.enabled(self.params)]

    def standing(self, name: str) -> Standing:
        """Return where stage `name` stands."""
        if name not in self._standings:
            self._standings[name] = self._look_up(self.stages[name])
        return self._standings[name]

    def _look_up(self, stage: Stage) -> Standing:
        upstream = {name: self.standing(name) for name in stage.inputs(self.params)}
        waits_for = tuple(name for name, standing in upstream.items() if standing.record is None or standing.stale)
        if waits_for:
            return Standing(stage, waits_for)
        records = {name: s.record for name, s in upstream.items() if s.record}
        document = self.document(stage, records)
        record = self.store.find(stage.name, fingerprint(document))
        return Standing(stage, (), document, record, stage.stale(self.params, record) if record else None, records)

    def document(self, stage: Stage, upstream: Mapping[str, Record]) -> dict[str, Any]:
        """Return all that the result of `stage` depends on, with the outputs of `upstream` as its inputs."""
        files = stage.inputs(self.params)
        digests = {
            f"{name}/{file}": record.outputs[file].digest for name, record in upstream.items() for file in files[name]
        }
        if stage.lineage:
            digests |= {name: record.fingerprint for name, record in upstream.items()}
        code = code_digests(stage.code(self.params), registries=REGISTRIES)
        code |= {file: digest_file(Path(__file__).parent / file) for file in stage.files}
        return build_document(
            stage=stage.name,
            params=stage.parameters(self.params),
            inputs=digests | stage.raw(self.params),
            code=code,
            libraries={name: _major_minor(name) for name in stage.libraries(self.params)},
        )


def _major_minor(library: str) -> str:
    return ".".join(importlib.metadata.version(library).split("+")[0].split(".")[:2])


def run_stage(stages: Mapping[str, Stage], name: str, params: Params, context: Context) -> StageResult:
    """Return the result of stage `name`: from the store when it is there, else by running it under its lock.

    Raises GenxferError when an upstream stage has no result yet, and whatever the stage itself raises. An interrupted
    stage leaves its work folder behind, from which the next run of the same fingerprint goes on.
    """
    start = time.monotonic()
    plan = Plan(stages, params, context.store)
    standing = plan.standing(name)
    if standing.waits_for:
        missing = ", ".join(standing.waits_for)
        raise GenxferError(
            f"{name} needs the result of {missing}, which is not in the store for these parameters. "
            f"Run `genxfer {standing.waits_for[0].replace('_', ' ')}` first, or `genxfer run` for all."
        )
    if standing.record and not standing.stale:
        return _finish(standing.stage, "cached", standing.record, start, context)
    standing.stage.guard(plan)
    if standing.stage.spreads:
        wait_until_known(context.nodes)
    if standing.stage.spreads and not context.nodes.leads:
        return _follow(standing, params, context, start)
    assert standing.fingerprint is not None
    with context.store.lock(name, standing.fingerprint):
        # Whoever held the lock may have done the work, and may have changed what made a record stale.
        standing = Plan(stages, params, context.store).standing(name)
        if standing.record and not standing.stale:
            return _finish(standing.stage, "cached", standing.record, start, context)
        if standing.stale:
            logger.warning("%s runs again: %s", name, standing.stale)
        record = _work(standing, params, context, start)
    return _finish(standing.stage, "ran", record, start, context)


def _follow(standing: Standing, params: Params, context: Context, start: float) -> StageResult:
    """Work on the stage for the host that leads, and return what that host publishes."""
    stage, store, nodes = standing.stage, context.store, context.nodes
    assert standing.fingerprint is not None
    logger.info("%s: one of %d hosts, led by that of %s", stage.name, nodes.count, nodes.endpoint)
    with tempfile.TemporaryDirectory(prefix="genxfer-") as folder:
        stage.run(_job(standing, params, context, Path(folder)))
    with store.lock(stage.name, standing.fingerprint):  # which the leading host holds until it has published
        record = store.find(stage.name, standing.fingerprint)
    if record is None:
        raise GenxferError(
            f"{stage.name} was worked on, but the leading host published no result in the store {store.location}: "
            "its own messages say why. All hosts have to share one store, see GENXFER_STORE."
        )
    return _finish(stage, "ran", record, start, context)


def _work(standing: Standing, params: Params, context: Context, start: float) -> Record:
    """Run the stage in its work folder and publish what it wrote."""
    stage, store = standing.stage, context.store
    assert standing.document is not None
    assert standing.fingerprint is not None
    work_dir = store.work_dir(stage.name, standing.fingerprint, standing.document)
    job = _job(standing, params, context, work_dir)
    with context.open_tracker(job) as tracker:
        with needing_room(f"Stage {stage.name!r} could not go on", work_dir):
            facts = stage.run(replace(job, tracker=tracker))
        _check_unchanged(standing, job)
        record = store.publish(
            stage.name,
            standing.fingerprint,
            job.out_dir,
            document=standing.document,
            seconds=time.monotonic() - start,
            facts=facts,
            versions={name: importlib.metadata.version(name) for name in stage.libraries(params)},
            replaces=standing.record,
        )
    store.discard_work(stage.name, standing.fingerprint)
    return record


def _job(standing: Standing, params: Params, context: Context, work_dir: Path) -> Job:
    """Return what the stage's function is handed, its inputs verified: those that the document names, and no later."""
    stage, store, upstream = standing.stage, context.store, standing.upstream
    assert standing.fingerprint is not None
    assert standing.document is not None
    inputs = stage.inputs(params)
    stored = {f"{name}/{file}": store.read(upstream[name].outputs[file]) for name in inputs for file in inputs[name]}
    fetched = stage.fetch(params, work_dir / "fetched")
    for name, path in fetched.items():
        _check_content(path, standing.document["inputs"][name])
    return Job(
        stage,
        params,
        standing.fingerprint,
        stored | fetched,
        upstream,
        _emptied(work_dir / "out"),
        work_dir,
        context.parent_run_id,
        nodes=context.nodes if stage.spreads else ALONE,
        former=standing.record,
        store=store.identity,
    )


def _check_content(path: Path, digest: str) -> None:
    """Raise GenxferError unless the file is still the one that the fingerprint speaks of."""
    found = digest_file(path) if path.is_file() else "nothing"
    if found != digest:
        raise GenxferError(f"{path} should have the sha256 {digest}, but has {found}: it has changed. Run again.")


def _check_unchanged(standing: Standing, job: Job) -> None:
    """Raise DataError where what was read outside the store is no longer what the fingerprint speaks of.

    What was read may then be neither of the two. The store's files and copies in the work folder are nobody else's.
    """
    assert standing.document is not None
    own = {name for name, path in job.inputs.items() if path.is_relative_to(job.work_dir)}
    outside = {
        name: digest
        for name, digest in standing.document["inputs"].items()
        if name not in own and name.partition("/")[0] not in job.upstream
    }
    now = job.stage.raw(job.params) if outside else {}
    if changed := sorted(name for name, digest in outside.items() if now.get(name) != digest):
        raise DataError(
            f"{job.stage.name}: {', '.join(changed)} changed while it was read, so nothing is published. Run again."
        )


def _emptied(folder: Path) -> Path:
    """Return `folder`, made or emptied: outputs of an interrupted attempt may be half-written."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    return folder


def _finish(stage: Stage, state: State, record: Record, start: float, context: Context) -> StageResult:
    if context.export_root is not None:
        folder = context.export_root / stage.name
        names = [name for name in record.outputs if name not in stage.heavy]
        with explaining(f"The result of stage {stage.name!r} could not be laid out", folder, setting=None):
            keep_only(folder, {*names, DOCUMENT})  # a former result may have had others; DVC takes the folder whole
            context.store.export(record, folder, names)
            write_json_atomic(folder / DOCUMENT, record.document)
    seconds = time.monotonic() - start
    logger.info("%s: %s in %.1f s (%s)", stage.name, state, seconds, record.fingerprint[:12])
    return StageResult(stage.name, state, record.fingerprint, seconds, record)
