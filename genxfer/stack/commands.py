"""What `genxfer up`, `down`, `status` and `env` do, in the project's folder: the one that holds prefect.yaml.

The front of this room; `cli.py` calls it. Progress goes to stderr, the answer to stdout.
"""

import contextlib
import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from genxfer.artifacts.disk import explaining
from genxfer.errors import GenxferError, ParameterError
from genxfer.stack.credentials import write_credentials
from genxfer.stack.dvc_remote import REMOTE, write_dvc_remote
from genxfer.stack.logs import append_to, last_lines
from genxfer.stack.parts import client_environment, foreign_variables, parts
from genxfer.stack.ports import check_ports
from genxfer.stack.postgres import Cluster
from genxfer.stack.processes import PART_VARIABLE, STACK_VARIABLE, end_leftovers, members
from genxfer.stack.settings import STACK, Settings, chosen_ports, load_settings
from genxfer.stack.status import DOWN, HALF_DEAD, STOPPING, Status, current_status, lines

STOP_LIMIT_S = 120.0  # then everything is killed
POLL_S = 0.2


def up(full: bool, base: int | None, single: Mapping[str, int | None]) -> None:
    """Start the stack and wait until all of it is healthy; when it is up already, say so. Leaves nothing on failure."""
    project = _project()
    with _one_at_a_time(Settings(project)):
        remembered = load_settings(project)  # of the stack that is up now: a first `up` may have chosen other ports
        settings = replace(remembered, full=full, ports=chosen_ports(remembered.ports, base, single))
        with _stopping_alone(project):  # what a `genxfer down` at work is about to end is not up any more
            status = current_status(project)
        if status.supervisor is not None and status.state != STOPPING:
            settings = replace(settings, full=full or remembered.full)
            _check_same(settings, remembered)
            _say("the stack is up already" if status.healthy else "the stack is up; waiting for what is not healthy")
            os.kill(status.supervisor.pid, signal.SIGHUP)  # what was given up is tried again
            _wait_until_healthy(settings, retries=status.retries + 1)
        else:
            _start(settings)
    _welcome(settings)


def down() -> None:
    """End every process of the stack; its data stays."""
    project = _project()
    if current_status(project).state == DOWN or not _stop_alone(project):
        print("The stack is not running.")
        return
    print("The stack is stopped; its data stays in .genxfer/stack.")


def show_status(as_json: bool) -> int:
    """Print how the stack is; return the exit code, 0 only if all of it is healthy."""
    status = current_status(_project())
    print(json.dumps(status.to_json(), indent=2) if as_json else "\n".join(lines(status)))
    return 0 if status.healthy else 1


def show_environment() -> None:
    """Print the lines that make a shell use the stack; raises GenxferError when it is not up."""
    project = _project()
    if current_status(project).supervisor is None:
        raise GenxferError("the stack is not running; start it with `genxfer up`.")
    settings = load_settings(project)
    if foreign := foreign_variables(settings):
        print(f"unset {' '.join(foreign)}")
    for name, value in client_environment(settings).items():
        print(f"export {name}={shlex.quote(value)}")


def _project() -> Path:
    project = Path.cwd()
    if not (project / "prefect.yaml").exists():
        raise ParameterError(
            f"{project} holds no prefect.yaml. Change to the project's folder; the stack belongs to it."
        )
    return project


@contextlib.contextmanager
def _one_at_a_time(settings: Settings) -> Iterator[None]:
    """Let a second `genxfer up` wait for the first."""
    with _preparing(settings):
        settings.folder.mkdir(parents=True, exist_ok=True)
        file = (settings.folder / "up.lock").open("w")
    with file as lock:
        _lock(lock.fileno(), "another `genxfer up`")
        yield


def _lock(descriptor: int, holder: str) -> None:
    """Lock an open file, and say so when another process has to be waited for."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _say(f"{holder} is at work; waiting for it")
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _preparing(settings: Settings) -> contextlib.AbstractContextManager[None]:
    """Turn the failure to write what the stack needs into a StoreError that says what to do."""
    return explaining("The stack could not be prepared", settings.folder, setting=None)


def _check_same(wanted: Settings, running: Settings) -> None:
    if wanted != running:
        kind = "full" if running.full else "small"
        raise ParameterError(
            f"The {kind} stack is up on the ports {running.ports.used(running.full)}, not as asked for now. "
            "Stop it first: genxfer down."
        )


def _start(settings: Settings) -> None:
    _stop_alone(settings.project)
    check_ports(settings)
    with _preparing(settings):
        if settings.full:
            credentials = write_credentials(settings)
            cluster = Cluster.of(settings)
            cluster.make(credentials)
            write_dvc_remote(settings)
        parts(settings)  # raises what is missing, before anything is started
        settings.save()
        (settings.folder / "state.json").unlink(missing_ok=True)
    _say(f"starting; the logs are in {settings.log('x').parent}")
    with append_to(settings.log("supervisor")) as log:
        warden = subprocess.Popen(
            [sys.executable, "-m", "genxfer.stack.warden", str(settings.project)],
            env=os.environ | {STACK_VARIABLE: str(settings.folder), PART_VARIABLE: "warden"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # it outlives us and our terminal
        )
    try:
        _wait_until_healthy(settings, warden)
    except BaseException:
        _say("stopping what was started")
        _stop(settings.folder, current_status(settings.project))
        raise


def _wait_until_healthy(settings: Settings, warden: "subprocess.Popen[bytes] | None" = None, retries: int = 0) -> None:
    """Return when every part is healthy; raises GenxferError when one is given up, or the supervisor is gone.

    What was given up before the supervisor has tried again for the `retries`-th time says nothing.
    """
    told: set[str] = set()
    begun_s = time.monotonic()
    while not (status := current_status(settings.project)).healthy:
        for part in status.parts:
            if part["healthy"] and part["name"] not in told:
                told.add(part["name"])
                _say(f"{part['title']}: {part['state']} after {time.monotonic() - begun_s:.0f} s")
        for part in status.failed() if status.retries >= retries else []:
            raise GenxferError(_obituary(settings, part["title"], part["name"], part["message"]))
        if status.state in (DOWN, HALF_DEAD) and (warden is None or warden.poll() is not None):
            raise GenxferError(_obituary(settings, "the supervisor", "supervisor", "ended"))
        time.sleep(POLL_S)


def _obituary(settings: Settings, title: str, name: str, message: str) -> str:
    log = settings.log(name)
    words = "\n  ".join(last_lines(log)) or "(nothing)"
    return f"{title} did not come up: {message}. The last lines of {log}:\n  {words}"


@contextlib.contextmanager
def _stopping_alone(project: Path) -> Iterator[None]:
    """Wait for the `genxfer down` that is at work, which would end what is started meanwhile as well.

    The lock is the stack's folder itself: a file of its own would need room on a full disk.
    """
    (project / STACK).mkdir(parents=True, exist_ok=True)  # its processes outlive it, where somebody has removed it
    folder = os.open(project / STACK, os.O_RDONLY)
    try:
        _lock(folder, "`genxfer down`")
        yield
    finally:
        os.close(folder)


def _stop_alone(project: Path) -> bool:
    """End all that runs, once nobody else does; return whether anything ran."""
    with _stopping_alone(project):
        status = current_status(project)
        if status.state == STOPPING:
            _say("the stack is being stopped; waiting until it is down")
        _stop(project / STACK, status)
    return status.state != DOWN


def _stop(folder: Path, status: Status) -> None:
    """Ask the supervisor to end everything and wait; whatever is left then is ended here."""
    if status.supervisor is not None and status.supervisor.alive():
        os.kill(status.supervisor.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_LIMIT_S
        while members(folder) and time.monotonic() < deadline:
            time.sleep(POLL_S)
    end_leftovers(folder)


def _welcome(settings: Settings) -> None:
    print(f"Prefect   {settings.prefect_url}   flows, schedules, runs")
    print(f"MLflow    {settings.mlflow_url}   metrics, pictures, registered models")
    if settings.full:
        print(f"S3        {settings.s3_url}   the store, MLflow's artifacts, the DVC remote: dvc push -r {REMOTE}")
    print()
    print("Next: run `transfer` from its form, or turn its nightly schedule on, in Prefect's pages under Deployments.")
    print('For commands in this shell:  eval "$(genxfer env)"      How it is: genxfer status      Stop: genxfer down')


def _say(what: str) -> None:
    with contextlib.suppress(OSError):  # what the stack comes to is no matter of who reads it
        print(f"genxfer: {what}", file=sys.stderr, flush=True)
