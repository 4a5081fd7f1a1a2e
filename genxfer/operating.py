"""The verbs of the command line that run the local stack: up, down, status, env.

Below `cli.py`, which hangs them among the others, and imports as little at the top; `genxfer/stack` does what they say.
Knows nothing of params.yaml.
"""

import argparse
from typing import Any

STACK_TEXT = (
    "Start the local stack in the project's folder and wait until it is healthy; all of it listens on 127.0.0.1 alone. "
    "docs/operate.md says what it is made of."
)


def add_stack(verbs: Any) -> None:
    """Add the four verbs."""
    up = verbs.add_parser("up", help="start the local stack: Prefect, MLflow, a worker", description=STACK_TEXT)
    up.set_defaults(verb_function=_up)
    up.add_argument("--full", action="store_true", help="with PostgreSQL behind both servers, and SeaweedFS as S3")
    up.add_argument("--port-base", type=int, metavar="N", help="consecutive ports from N on; remembered")
    for name in ("prefect", "mlflow", "postgres", "s3"):
        up.add_argument(f"--{name}-port", type=int, metavar="N", help="a single port; remembered")
    down = verbs.add_parser("down", help="stop the local stack; its data stays")
    down.set_defaults(verb_function=_down)
    status = verbs.add_parser("status", help="say how each part of the local stack is; exit code 0 if all is healthy")
    status.set_defaults(verb_function=_status)
    status.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    environment = verbs.add_parser("env", help='print what makes a shell use the local stack: eval "$(genxfer env)"')
    environment.set_defaults(verb_function=_env)


def _up(parsed: argparse.Namespace) -> None:
    from genxfer.stack.commands import up

    single = {name: getattr(parsed, f"{name}_port") for name in ("prefect", "mlflow", "postgres", "s3")}
    up(parsed.full, parsed.port_base, single)


def _down(parsed: argparse.Namespace) -> None:
    from genxfer.stack.commands import down

    down()


def _status(parsed: argparse.Namespace) -> int:
    from genxfer.stack.commands import show_status

    return show_status(parsed.json)


def _env(parsed: argparse.Namespace) -> None:
    from genxfer.stack.commands import show_environment

    show_environment()
