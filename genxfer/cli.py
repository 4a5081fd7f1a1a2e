"""The command line: one verb per stage, and others such as run, compare, plan, metrics.

Results go to stdout, all else to stderr.

Exit codes: 0 done; 1 anything else; 2 a wrong parameter or command; 3 data; 4 the store; 5 training; 6 the registry;
7 not promoted, as the rule says no; 130 interrupted, 143 terminated, 129 the terminal was closed (a verb that trains
goes on where it was). Imports of the house stand inside the verbs: `--help` has to answer at once.
"""

import argparse
import contextlib
import json
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from genxfer.drawing import add_drawing
from genxfer.leaving import end_with
from genxfer.measuring import add_metrics
from genxfer.operating import add_stack

EPILOG = "Everything else is in params.yaml; -S finetune.kimg=60 overrides one value of it."

NOT_PROMOTED = 7

VerbFunction = Callable[[argparse.Namespace], int | None]  # answers with the exit code, None for 0

STAGE_VERBS = {
    "dataset": "read, pack and version the images of a domain",
    "pretrain": "train on the source domain",
    "finetune": "adapt the source model to the target domain",
    "baseline": "train on the target domain from scratch, with the same budget",
    "evaluate": "score all models against the test images",
    "register": "register the transferred model in MLflow",
}
TRAINING = ("pretrain", "finetune", "baseline")


def command() -> NoReturn:
    """Be the command `genxfer`: run the command line and end the process."""
    end_with(main)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; a failure that is the user's to mend prints its message alone."""
    parsed = _parser().parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as `nohup` does
            signal.signal(number, lambda number, frame: _terminate(number, parsed))
    from genxfer.errors import GenxferError

    code: int | None = None
    try:
        code = parsed.verb_function(parsed)
        sys.stdout.flush()
    except GenxferError as error:
        for line in str(error).splitlines():
            _say(line)
        return error.exit_code
    except KeyboardInterrupt:
        _say(f"interrupted{_what_then(parsed)}.")
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `head` does: the code stays what it was
        from genxfer.terminal import leave_unread

        leave_unread()
    return code or 0


def _terminate(number: int, parsed: argparse.Namespace) -> NoReturn:
    """Leave through the stack, so that locks are let go and the checkpoint is written; it is told once.

    A closed terminal and a logout send several signals, which must not interrupt the leaving.
    """
    for other in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(other) != signal.SIG_IGN:
            signal.signal(other, lambda number, frame: None)
    _say(f"terminated{_what_then(parsed)}.")
    raise SystemExit(128 + number)


def _say(what: str) -> None:
    """Tell the user on stderr; whether anybody reads it changes neither the exit code nor that the run ends."""
    # RuntimeError: the signal came in the middle of another line to stderr, which takes no second one meanwhile.
    with contextlib.suppress(OSError, RuntimeError):
        print(f"genxfer: {what}", file=sys.stderr)


def _what_then(parsed: argparse.Namespace) -> str:
    """Say what the same command will do: what a stage made is in the store, what a training has so far, at its side."""
    if parsed.verb_function is _stage and parsed.stage not in TRAINING:
        return "; the same command begins this stage again"
    return (
        "; the same command goes on from the last checkpoint"
        if parsed.verb_function in (_run, _compare, _stage)
        else ""
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="genxfer",
        description="Transfer learning for image generators: pretrain on many images, adapt to few, measure the gain.",
        epilog=EPILOG,
    )
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    run = _verb(verbs, "run", "run the flow `transfer`: all stages, in order, as one Prefect flow run", _run)
    run.add_argument("--json", action="store_true", help="print the summary as one JSON object instead of a table")
    compare = _verb(verbs, "compare", "run the flow `compare`: several methods and seeds, ranked", _compare)
    compare.add_argument("--methods", nargs="+", metavar="METHOD", help="default: compare.methods of params.yaml")
    compare.add_argument("--seeds", nargs="+", metavar="SEED", help="default: compare.seeds of params.yaml")
    compare.add_argument("--json", action="store_true", help="print the summary as one JSON object instead of a table")
    for name, text in STAGE_VERBS.items():
        verb = _verb(verbs, name, text, _stage)
        verb.set_defaults(stage=name)
        if name in TRAINING:
            verb.add_argument("--nodes", type=int, metavar="N", help="train on N hosts: the same command on each")
            verb.add_argument("--rdzv", metavar="HOST:PORT", help="where they meet: an address of the first of them")
        if name == "dataset":
            verb.add_argument("domain", nargs="?", choices=("source", "target"), help="default: both")
        verb.add_argument("--json", action="store_true", help="print what was done as JSON")
    _verb(verbs, "plan", "show what would run and what is cached, and how long it should take", _plan)
    explain = _verb(verbs, "explain", "say what changed since the last run of a stage", _explain)
    explain.add_argument("stage", help="such as pretrain, finetune, evaluate")
    add_drawing(verbs)
    add_metrics(verbs)
    _add_promote(verbs)
    _add_rollback(verbs)
    _add_gc(verbs)
    add_stack(verbs)
    return parser


def _add_promote(verbs: Any) -> None:
    promote = _verb(verbs, "promote", "make the challenger the champion, if the rule says so (else code 7)", _promote)
    _add_model(promote)
    promote.add_argument("--dry-run", action="store_true", help="only say what would be done")
    promote.add_argument("--json", action="store_true", help="print the decision as one JSON object")


def _add_rollback(verbs: Any) -> None:
    rollback = _verb(verbs, "rollback", "make the champion before the present one the champion again", _rollback)
    _add_model(rollback)
    rollback.add_argument("--reason", default="no reason given", help="is written on both versions")
    rollback.add_argument("--dry-run", action="store_true", help="only say what would be done")
    rollback.add_argument("--json", action="store_true", help="print what was done as one JSON object")


def _add_gc(verbs: Any) -> None:
    gc = _verb(verbs, "gc", "show what is in the store that nobody refers to; with --apply, remove it", _gc)
    gc.add_argument("--keep-days", type=float, default=30.0, metavar="N", help="what is younger stays (default: 30)")
    gc.add_argument("--apply", action="store_true", help="remove it; without this nothing is changed")
    gc.add_argument("--json", action="store_true", help="print everything that goes or stays as one JSON object")


def _add_model(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("name", nargs="?", metavar="NAME", help="the registered model (default: register.name)")


def _verb(
    verbs: Any, name: str, text: str, function: Callable[[argparse.Namespace], int | None]
) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text, epilog=EPILOG)
    verb.set_defaults(verb_function=function)
    verb.add_argument("--params", default="params.yaml", metavar="FILE", help="the parameters (default: params.yaml)")
    verb.add_argument(
        "-S", "--set", action="append", default=[], metavar="KEY=VALUE", help="override one parameter; may be repeated"
    )
    return verb


def _params(parsed: argparse.Namespace) -> Any:
    from genxfer.config import load_params

    return load_params(parsed.params, parsed.set)


def _stage(parsed: argparse.Namespace) -> None:
    """Run one stage; `dataset` without a domain is two."""
    from genxfer.stages import STAGES, leave_out, local_context, preflight, run_stage
    from genxfer.terminal import show_progress

    names = [parsed.stage]
    if parsed.stage == "dataset":
        names = [f"dataset_{domain}" for domain in ([parsed.domain] if parsed.domain else ("source", "target"))]
    if getattr(parsed, "nodes", None) is not None:
        parsed.set.append(f"compute.nodes={parsed.nodes}")
    params = preflight(_params(parsed), names)
    show_progress()
    for name in names:
        if not STAGES[name].enabled(params):
            leave_out(name, params)
    enabled = [name for name in names if STAGES[name].enabled(params)]
    results = [run_stage(name, params, local_context(), getattr(parsed, "rdzv", None)) for name in enabled]
    if parsed.json:
        print(json.dumps({result.stage: result.to_json() for result in results}))


def _run(parsed: argparse.Namespace) -> None:
    from genxfer.terminal import print_summary

    _flow("transfer", parsed, print_summary)


def _compare(parsed: argparse.Namespace) -> None:
    from genxfer.terminal import print_ranking

    for key in ("methods", "seeds"):
        if getattr(parsed, key):
            parsed.set.append(f"compare.{key}=[{', '.join(getattr(parsed, key))}]")
    _flow("compare", parsed, print_ranking)


def _flow(name: str, parsed: argparse.Namespace, show: Callable[[Any], None]) -> None:
    """Run a flow in this process, with an embedded Prefect server unless PREFECT_API_URL names one."""
    from genxfer.stages import preflight_flow
    from genxfer.terminal import show_progress

    params = preflight_flow(_params(parsed))
    show_progress()
    from flows.embedded import run_flow

    summary = run_flow(name, params)
    if parsed.json:
        print(json.dumps(summary))
    else:
        show(summary)


def _plan(parsed: argparse.Namespace) -> None:
    from genxfer.planning import forecast
    from genxfer.stages import current_plan
    from genxfer.terminal import print_forecast

    print_forecast(forecast(current_plan(_params(parsed))))


def _explain(parsed: argparse.Namespace) -> None:
    from genxfer.planning import explain
    from genxfer.stages import current_plan, last_document
    from genxfer.terminal import print_explanation

    print_explanation(explain(current_plan(_params(parsed)), parsed.stage, last_document))


def _promote(parsed: argparse.Namespace) -> int:
    from genxfer.stages.promotion import promote_challenger

    return _show_outcome(promote_challenger(_params(parsed), _model_name(parsed), parsed.dry_run), parsed.json)


def _rollback(parsed: argparse.Namespace) -> int:
    from genxfer.stages.promotion import roll_back

    return _show_outcome(roll_back(_params(parsed), _model_name(parsed), parsed.reason, parsed.dry_run), parsed.json)


def _model_name(parsed: argparse.Namespace) -> str | None:
    """Return NAME, None where it was left out; an empty one is most likely a variable that is not set."""
    from genxfer.errors import ParameterError

    name: str | None = parsed.name
    if name is not None and not name.strip():
        raise ParameterError(
            f"NAME is {name!r}; it must be the name of a registered model. Give one, or leave NAME out to mean "
            "register.name of params.yaml."
        )
    return name


def _show_outcome(outcome: Any, as_json: bool) -> int:
    from genxfer.terminal import print_outcome

    if as_json:
        print(json.dumps(outcome.to_json()))
    else:
        print_outcome(outcome.to_json())
    return NOT_PROMOTED if outcome.state == "not promoted" else 0


def _gc(parsed: argparse.Namespace) -> None:
    """Show or remove what nobody refers to."""
    from genxfer.errors import ParameterError

    if not 0 <= parsed.keep_days <= 36500:
        raise ParameterError(f"--keep-days is {parsed.keep_days:g}; allowed: 0 to 36500.")
    from genxfer.stages.garbage import collect_garbage
    from genxfer.terminal import print_collection, show_progress

    show_progress()
    collection = collect_garbage(_params(parsed), parsed.keep_days, parsed.apply).to_json()
    if parsed.json:
        print(json.dumps(collection))
    else:
        print_collection(collection)
