"""Do a job in several processes, and answer as if it had been this one: the same result, errors and signals.

Whatever ends this process, or raises here (Ctrl-C, a cancellation), closes the supervisor's standard input: the ranks
write a checkpoint, where they train, and are gone within seconds. Knows neither stages nor what a job is about.
"""

import json
import logging
import os
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Protocol

from genxfer import errors
from genxfer.artifacts.atomic import write_atomic
from genxfer.launch.events import pass_on
from genxfer.launch.nodes import ALONE, Nodes, interface_of, own_address
from genxfer.training.interrupt import stopping
from genxfer.training.tracker import Tracker

if TYPE_CHECKING:
    from genxfer.training.distributed import World

logger = logging.getLogger("genxfer.launch")

JOB_FILE = "job.json"
MEETING_FILE = "rendezvous"
MOST_RESTARTS = 3  # of all ranks, after one has died
LINES_SHOWN = 15  # of what the ranks printed, in an error message
MEET_WITHIN_S = 600  # that the hosts wait for each other, at the start and after one has gone
STOPPED_WITHIN_S = 30.0  # after which the supervisor itself is killed, and the ranks with it


class Job(Protocol):
    """Work as data, of a kind that `worker.py` knows: the same in one process as shared out among several."""

    error: ClassVar[type[errors.GenxferError]]  # where the ranks end without a word

    @property
    def kind(self) -> str:
        """What is to be done."""

    @property
    def work_dir(self) -> Path:
        """Where an attempt leaves what the next one goes on from."""

    @property
    def leads(self) -> bool:
        """Whether this host leads the others."""

    def model_dump_json(self, *, indent: int | None = None) -> str:
        """Return the job as JSON."""

    def run(self, tracker: Tracker, world: "World") -> dict[str, Any]:
        """Do this rank's part, and return facts that can be written as JSON."""


def carry_out(
    job: Job, processes: int, tracker: Tracker, nodes: Nodes = ALONE, run_id: str = "alone"
) -> dict[str, Any] | None:
    """Return the facts of `job`, done in this process where one is enough, else by `launch`."""
    if processes * nodes.count == 1:
        from genxfer.training.distributed import World

        return job.run(tracker, World())
    return launch(job, processes, tracker, nodes, run_id)


def launch(
    job: Job, processes: int, tracker: Tracker, nodes: Nodes = ALONE, run_id: str = "alone"
) -> dict[str, Any] | None:
    """Do `job` in so many ranks on this host, together with those of the other `nodes` that name the same `run_id`.

    Returns its facts, None on a host that does not lead. Raises what the job raises, its `error` if ranks crash.
    """
    job_file = job.work_dir / JOB_FILE
    write_atomic(job_file, job.model_dump_json(indent=1).encode())
    options, environment = _group(job, processes, nodes, run_id)
    python = [sys.executable, "-m"]
    supervisor = subprocess.Popen(
        [*python, "genxfer.launch.supervisor", *python, "genxfer.launch.agent", *options, str(job_file)],
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",  # libraries print what they like; a listener that dies of it would leave the pipe to fill up
        start_new_session=True,  # a terminal's signals and its end are for this process to answer
    )
    assert supervisor.stdin
    assert supervisor.stdout
    assert supervisor.stderr
    printed: deque[str] = deque(maxlen=LINES_SHOWN)
    listener = threading.Thread(target=_listen, args=(supervisor.stderr, printed), daemon=True)
    listener.start()
    facts: dict[str, Any] | None = None
    try:
        for line in supervisor.stdout:
            event = _event(line)
            if event.get("event") == "error":
                raise _error(event, job.error)
            if event.get("event") == "result":
                facts = event["facts"]
            elif event:
                pass_on(event, tracker)
    finally:
        _stop(supervisor)
        tracker.close()
    listener.join()
    if facts is None and (nodes.leads or supervisor.returncode != 0):
        shown = "\n".join(printed)
        raise job.error(
            f"The {job.kind} in {processes * nodes.count} processes ended with code {supervisor.returncode}; they "
            f"start again at most {MOST_RESTARTS} times, and hosts wait for each other for {MEET_WITHIN_S} s. The last "
            f"words:\n{shown}\nThe same command goes on from what they left."
        )
    return facts


def _group(job: Job, processes: int, nodes: Nodes, run_id: str) -> tuple[list[str], dict[str, str]]:
    """Return torchrun's options for this host, and the environment in which its ranks find their network."""
    options = {
        "--nnodes": str(nodes.count),
        "--nproc-per-node": str(processes),
        "--max-restarts": str(MOST_RESTARTS),
        "--rdzv-backend": "c10d",
        "--rdzv-id": run_id,
    }
    if nodes.count == 1:  # they meet in a file, and no port is open to other machines
        meeting = job.work_dir / MEETING_FILE
        meeting.unlink(missing_ok=True)
        address, interface = "127.0.0.1", interface_of("127.0.0.1")
        options |= {"--rdzv-endpoint": str(meeting), "--rdzv-conf": "store_type=file"}
    else:
        address = own_address(nodes)
        interface = interface_of(address)
        patience = f"join_timeout={MEET_WITHIN_S},read_timeout={MEET_WITHIN_S}"
        options |= {"--rdzv-endpoint": nodes.endpoint, "--rdzv-conf": f"is_host={int(nodes.leads)},{patience}"}
    options["--local-addr"] = address
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    environment = {name: interface for name in names if interface and name not in os.environ}
    return [word for option in options.items() for word in option], environment


def _stop(supervisor: "subprocess.Popen[str]") -> None:
    """Let the supervisor end the ranks, and wait for it: whoever lets go of the stage's lock must know them gone.

    A second Ctrl-C kills them, and raises.
    """
    assert supervisor.stdin
    with stopping():
        supervisor.stdin.close()
        try:
            supervisor.wait(STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            _kill(supervisor)
        except BaseException:
            _kill(supervisor)
            raise


def _kill(supervisor: "subprocess.Popen[str]") -> None:
    """Kill the supervisor, and wait until the ranks, which die with it, have let go of their standard output."""
    assert supervisor.stdout
    supervisor.kill()
    supervisor.wait()
    for _ in supervisor.stdout:
        pass


def _listen(stream: IO[str], printed: deque[str]) -> None:
    """Keep the last lines that the ranks print, for people who look for them in the log at level DEBUG."""
    for line in stream:
        printed.append(line.rstrip())
        logger.debug("%s", line.rstrip())


def _event(line: str) -> dict[str, Any]:
    """Return the event of one line; one torn by a kill is none."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _error(event: dict[str, Any], otherwise: type[errors.GenxferError]) -> errors.GenxferError:
    """Return a rank's error, of the same kind where it is one of the house's."""
    kind = getattr(errors, event["kind"], otherwise)
    error: errors.GenxferError = kind(event["message"])
    return error
