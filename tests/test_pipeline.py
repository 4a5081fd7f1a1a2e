"""`run_stage` on stages of a few lines: what makes one run, what does not, who waits for whom."""

import errno
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genxfer import pipeline
from genxfer.artifacts.fingerprint import digest_file
from genxfer.artifacts.store import LocalStore
from genxfer.config import Params
from genxfer.errors import DataError, GenxferError, StoreError
from genxfer.launch.nodes import Nodes
from genxfer.pipeline import DOCUMENT, Context, Job, Plan, Stage, run_stage
from genxfer.planning import explain, forecast
from genxfer.stages.registration import not_registered

ROOT = ("genxfer.errors:nearest",)


def write_numbers(job: Job) -> dict[str, Any]:
    (job.out_dir / "numbers.txt").write_text(f"{job.params.pretrain.seed}")
    return {"count": 1}


def double(job: Job) -> dict[str, Any]:
    number = int(job.inputs["first/numbers.txt"].read_text())
    (job.out_dir / "double.txt").write_text(f"{2 * number}")
    return {}


def fail(job: Job) -> dict[str, Any]:
    (job.out_dir / "half.txt").write_text("half")
    raise GenxferError("the stage failed")


STAGES = {
    "first": Stage(
        "first", "pretrain", write_numbers, lambda p: {"pretrain": {"seed": p.pretrain.seed}}, lambda p: ROOT
    ),
    "second": Stage(
        "second",
        "finetune",
        double,
        lambda p: {"finetune": {"seed": p.finetune.seed}},
        lambda p: ROOT,
        inputs=lambda p: {"first": ("numbers.txt",)},
    ),
    "failing": Stage("failing", "finetune", fail, lambda p: {}, lambda p: ROOT),
}


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(LocalStore(tmp_path / "store"), export_root=tmp_path / "artifacts")


def seeds(pretrain: int = 1, finetune: int = 1) -> Params:
    return Params.model_validate({"pretrain": {"seed": pretrain}, "finetune": {"seed": finetune}})


def run(context: Context, params: Params) -> list[str]:
    return [run_stage(STAGES, name, params, context).state for name in ("first", "second")]


@pytest.mark.parametrize(("reason", "expected"), [(errno.ENOSPC, StoreError), (errno.EIO, OSError)])
def test_a_disk_that_is_full_while_a_stage_works_is_told_with_what_helps(
    context: Context, reason: int, expected: type[Exception]
) -> None:
    def out_of_room(job: Job) -> dict[str, Any]:
        raise OSError(reason, os.strerror(reason))

    stages = {"first": replace(STAGES["first"], run=out_of_room)}
    with pytest.raises(expected) as error:
        run_stage(stages, "first", seeds(), context)
    assert ("Stage 'first' could not go on. No space is left" in str(error.value)) == (reason == errno.ENOSPC)


def test_the_meeting_points_name_is_waited_for_by_whoever_has_work_to_share_and_by_nobody_else(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Nodes] = []
    monkeypatch.setattr(pipeline, "wait_until_known", asked.append)
    stages = {"first": replace(STAGES["first"], spreads=True)}
    two = Nodes(2, "train-0.train", 29400, leads=True)
    assert run_stage(stages, "first", Params(), replace(context, nodes=two)).state == "ran"
    assert asked == [two]
    for nodes in (two, replace(two, leads=False)):  # the leading host may be gone, with its name, as all is done
        assert run_stage(stages, "first", Params(), replace(context, nodes=nodes)).state == "cached"
    assert asked == [two]


def test_the_second_run_is_cached(context: Context) -> None:
    assert run(context, seeds()) == ["ran", "ran"]
    assert run(context, seeds()) == ["cached", "cached"]


def test_a_changed_parameter_runs_its_stage_and_those_below(context: Context) -> None:
    run(context, seeds())
    assert run(context, seeds(finetune=2)) == ["cached", "ran"]
    assert run(context, seeds(pretrain=2)) == ["ran", "ran"]


def test_an_input_of_the_same_content_runs_nothing_below(context: Context) -> None:
    """The input's digest counts, not how it was made: the same bytes from another run are the same input."""
    run(context, seeds())
    same_bytes = {**STAGES, "first": Stage(**{**vars(STAGES["first"]), "libraries": lambda p: ("numpy",)})}
    states = [run_stage(same_bytes, name, seeds(), context).state for name in ("first", "second")]
    assert states == ["ran", "cached"]


def test_a_stage_whose_object_is_lost_runs_again_and_no_other(context: Context, tmp_path: Path) -> None:
    run(context, seeds())
    record = Plan(STAGES, seeds(), context.store).standing("second").record
    assert record is not None
    context.store.read(record.outputs["double.txt"]).unlink()
    assert run(context, seeds()) == ["cached", "ran"]


def test_what_lies_outside_the_store_counts_by_its_content_and_is_checked(context: Context, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"

    def staged(raw: dict[str, str]) -> dict[str, Stage]:
        second = replace(
            STAGES["second"],
            inputs=lambda params: {},
            raw=lambda params: raw,
            fetch=lambda params, folder: {"first/numbers.txt": outside},
        )
        return {"second": second}

    outside.write_text("21")
    stages = staged({"first/numbers.txt": digest_file(outside)})
    result = run_stage(stages, "second", seeds(), context)
    assert context.store.read(result.record.outputs["double.txt"]).read_text() == "42"
    assert run_stage(stages, "second", seeds(), context).state == "cached"
    outside.write_text("22")
    with pytest.raises(GenxferError, match=r"outside\.txt should have the sha256 .* it has changed"):
        run_stage(stages, "second", seeds(finetune=2), context)
    assert run_stage(staged({"first/numbers.txt": digest_file(outside)}), "second", seeds(), context).state == "ran"


@pytest.mark.parametrize("after", ["changed", None])
def test_what_changes_while_it_is_read_is_not_published(context: Context, tmp_path: Path, after: str | None) -> None:
    outside = tmp_path / "raw.txt"

    def raw(params: Params) -> dict[str, str]:
        return {"raw images": digest_file(outside)} if outside.exists() else {}

    def read_slowly(job: Job) -> dict[str, Any]:
        (job.out_dir / "copy.txt").write_text(outside.read_text())
        outside.unlink()
        if after is not None:
            outside.write_text(after)
        return {}

    outside.write_text("first")
    stages = {"first": replace(STAGES["first"], run=read_slowly, raw=raw)}
    with pytest.raises(DataError, match=r"first: raw images changed while it was read.*Run again"):
        run_stage(stages, "first", seeds(), context)
    assert context.store.records("first") == []
    assert not (tmp_path / "artifacts" / "first").exists()
    outside.write_text("first")
    steady = {"first": replace(stages["first"], run=write_numbers)}
    assert [run_stage(steady, "first", seeds(), context).state for _ in range(2)] == ["ran", "cached"]


@pytest.mark.parametrize("replaced", [True, False])
def test_what_is_read_is_what_the_fingerprint_speaks_of_whatever_becomes_of_its_record(
    context: Context, tmp_path: Path, replaced: bool
) -> None:
    """Between the look at the records and the reading, another may have removed or replaced one."""

    class Interrupted(LocalStore):
        def work_dir(self, stage: str, fp: str, document: Mapping[str, Any] | None = None) -> Path:
            if stage == "second":
                [first] = self.records("first")
                self.remove_record(first)
                if replaced:
                    about = {"document": first.document, "seconds": 1.0, "facts": {}, "versions": {}}
                    self.publish("first", first.fingerprint, other, **about)
            return super().work_dir(stage, fp, document)

    other = tmp_path / "other"
    other.mkdir()
    (other / "numbers.txt").write_text("21")
    run_stage(STAGES, "first", seeds(), context)
    interrupted = replace(context, store=Interrupted(tmp_path / "store"))
    record = run_stage(STAGES, "second", seeds(), interrupted).record
    assert context.store.read(record.outputs["double.txt"]).read_text() == "2"


def test_a_stage_without_its_input_says_what_to_run_first(context: Context) -> None:
    with pytest.raises(GenxferError, match=r"second needs the result of first.*genxfer first"):
        run_stage(STAGES, "second", seeds(), context)


def test_a_failed_stage_leaves_no_record_and_nothing_laid_out(context: Context, tmp_path: Path) -> None:
    with pytest.raises(GenxferError, match="the stage failed"):
        run_stage(STAGES, "failing", seeds(), context)
    assert context.store.records("failing") == []
    assert not (tmp_path / "artifacts" / "failing").exists()


def test_half_written_outputs_of_a_failed_run_do_not_reach_the_next(context: Context) -> None:
    with pytest.raises(GenxferError):
        run_stage(STAGES, "failing", seeds(), context)
    mended = {"failing": Stage(**{**vars(STAGES["failing"]), "run": write_numbers})}
    result = run_stage(mended, "failing", seeds(), context)
    assert list(result.record.outputs) == ["numbers.txt"]


@pytest.mark.parametrize("state", ["ran", "cached"])
def test_what_is_laid_out_is_the_result_and_nothing_of_a_former_one(
    context: Context, tmp_path: Path, state: str
) -> None:
    def laid_out() -> set[str]:
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}

    def write_more(job: Job) -> dict[str, Any]:
        (job.out_dir / "nets").mkdir()
        (job.out_dir / "nets" / "adapter.txt").write_text("more")
        return write_numbers(job)

    folder = tmp_path / "artifacts" / "first"
    if state == "cached":
        run_stage(STAGES, "first", seeds(), context)
    more = {"first": replace(STAGES["first"], run=write_more, libraries=lambda p: ("numpy",))}
    run_stage(more, "first", seeds(), context)
    assert laid_out() == {"numbers.txt", "nets", "nets/adapter.txt", DOCUMENT}
    (folder / "left_out.json").write_text("{}")
    (folder / ".genxfer-1-0.tmp").write_text("what another process is writing")
    assert run_stage(STAGES, "first", seeds(), context).state == state
    assert laid_out() == {"numbers.txt", DOCUMENT, ".genxfer-1-0.tmp"}


@pytest.mark.parametrize("hindered", ["artifacts", "artifacts/first/numbers.txt/x", f"artifacts/first/{DOCUMENT}/x"])
def test_what_cannot_be_laid_out_is_told_with_what_to_do_and_is_in_the_store(
    context: Context, tmp_path: Path, hindered: str
) -> None:
    in_the_way = tmp_path / hindered
    in_the_way.parent.mkdir(parents=True, exist_ok=True)
    in_the_way.write_text("")
    if "/" in hindered:  # a folder that stays, as somebody is writing in it
        in_the_way.rename(in_the_way.with_name(".genxfer-1-0.tmp"))
    with pytest.raises(StoreError, match=r"stage 'first' could not be (laid out|written)\. .*artifacts"):
        run_stage(STAGES, "first", seeds(), context)
    [record] = context.store.records("first")
    assert context.store.find("first", record.fingerprint) == record


def test_a_stale_record_runs_again_and_says_why(context: Context, caplog: pytest.LogCaptureFixture) -> None:
    run(context, seeds())
    stale = {**STAGES, "first": Stage(**{**vars(STAGES["first"]), "stale": lambda params, record: "the folder moved"})}
    assert run_stage(stale, "first", seeds(), context).state == "ran"
    assert "the folder moved" in caplog.text


def test_a_stage_is_told_whose_lock_is_held(context: Context) -> None:
    told = {**STAGES, "first": replace(STAGES["first"], run=lambda job: write_numbers(job) | {"store": job.store})}
    assert run_stage(told, "first", seeds(), context).record.facts["store"] == context.store.identity


def test_a_stage_is_handed_the_record_that_its_own_is_to_replace(context: Context) -> None:
    def count(job: Job) -> dict[str, Any]:
        return write_numbers(job) | {"count": job.former.facts["count"] + 1 if job.former else 1}

    options = {"run": count, "stale": lambda params, record: "always"}
    counting = {**STAGES, "first": Stage(**(vars(STAGES["first"]) | options))}
    assert [run_stage(counting, "first", seeds(), context).record.facts["count"] for _ in range(3)] == [1, 2, 3]


def test_plan_tells_what_runs_and_how_long_it_took_before(context: Context) -> None:
    assert [(line.cached, line.expected_s) for line in forecast(Plan(STAGES, seeds(), context.store))][:2] == [
        (False, None),
        (False, None),
    ]
    run(context, seeds())
    first, second, _ = forecast(Plan(STAGES, seeds(finetune=2), context.store))
    assert (first.cached, second.cached) == (True, False)
    assert second.expected_s is not None


def test_plan_tells_of_every_stage_while_mlflow_does_not_answer(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(context, seeds())
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen: who calls is refused
        monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed.getsockname()[1]}")
        asking = Stage(**(vars(STAGES["second"]) | {"stale": not_registered}))
        lines = forecast(Plan({**STAGES, "second": asking}, seeds(), context.store))
    assert [line.stage for line in lines] == list(STAGES)
    assert (lines[0].reason, lines[1].reason) == ("in the store", "MLflow does not answer")
    assert not lines[1].cached


def test_explain_names_the_parameter_with_its_old_and_new_value(context: Context, tmp_path: Path) -> None:
    import json

    def last_document(name: str) -> dict[str, Any] | None:
        path = tmp_path / "artifacts" / name / DOCUMENT
        return json.loads(path.read_text()) if path.exists() else None

    run(context, seeds())
    [change] = explain(Plan(STAGES, seeds(finetune=2), context.store), "second", last_document).changes
    assert (change.kind, change.name, change.old, change.new) == ("parameter", "finetune.seed", 1, 2)
    upstream = explain(Plan(STAGES, seeds(pretrain=2), context.store), "second", last_document).upstream
    assert [(entry.stage, entry.changes[0].name) for entry in upstream] == [("first", "pretrain.seed")]


def test_a_holder_killed_with_9_blocks_nobody(context: Context, tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import sys, time
        from pathlib import Path
        sys.path.insert(0, {str(Path.cwd())!r})
        from dataclasses import replace
        from tests.test_pipeline import STAGES, seeds
        from genxfer.artifacts.store import LocalStore
        from genxfer.pipeline import Context, run_stage

        def hang(job):
            print("holding", flush=True)
            time.sleep(600)

        stages = {{"first": replace(STAGES["first"], run=hang)}}
        run_stage(stages, "first", seeds(), Context(LocalStore(Path({str(tmp_path / "store")!r}))))
    """)
    holder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "holding\n"
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert run_stage(STAGES, "first", seeds(), context).state == "ran"
