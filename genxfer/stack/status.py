"""What `genxfer status` says: what the supervisor wrote down, held against the process table. Changes nothing."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genxfer.launch.identity import Identity
from genxfer.stack.processes import members
from genxfer.stack.settings import STACK

SILENT_AFTER_S = 60.0  # without a sign of life from the supervisor

UP, STARTING, DEGRADED, STOPPING, DOWN, HALF_DEAD = "up", "starting", "degraded", "stopping", "down", "half-dead"
MEANINGS = {
    UP: "all parts are healthy",
    STARTING: "some parts are not ready yet",
    DEGRADED: "not all parts are healthy; `genxfer up` tries again what was given up",
    STOPPING: "it is being stopped",
    DOWN: "nothing runs; `genxfer up` starts it",
    HALF_DEAD: "its supervisor is gone, some processes are left; `genxfer up` or `genxfer down` ends them",
}


@dataclass(frozen=True)
class Status:
    """The stack of a project at this moment."""

    state: str
    supervisor: Identity | None = None
    parts: list[dict[str, Any]] = field(default_factory=list)
    leftovers: list[int] = field(default_factory=list)  # processes of a stack without a supervisor
    retries: int = 0  # how often the supervisor has tried again what was given up

    @property
    def healthy(self) -> bool:
        """Whether every part does its work."""
        return self.state == UP

    def failed(self) -> list[dict[str, Any]]:
        """Return the parts that were given up."""
        return [part for part in self.parts if part["state"] == "failed"]

    def to_json(self) -> dict[str, Any]:
        """Return all of it for scripts."""
        return {
            "state": self.state,
            "healthy": self.healthy,
            "supervisor": None if self.supervisor is None else vars(self.supervisor),
            "leftovers": self.leftovers,
            "parts": self.parts,
        }


def current_status(project: Path) -> Status:
    """Return how the stack of a project is."""
    told = _told(project)
    supervisor = Identity(**told["supervisor"]) if told else None
    if supervisor is None or not supervisor.alive():
        left = [process.pid for process in members(project / STACK)]
        return Status(
            HALF_DEAD if left else DOWN, parts=[_dead(part) for part in told.get("parts", [])], leftovers=left
        )
    return Status(_overall(told), supervisor, told["parts"], retries=told["retries"])


def _overall(told: dict[str, Any]) -> str:
    if told["stopping"]:
        return STOPPING
    if all(part["healthy"] for part in told["parts"]) and time.time() - told["heartbeat"] < SILENT_AFTER_S:
        return UP
    states = {part["state"] for part in told["parts"]}
    return STARTING if states <= {"waiting", "starting", "healthy", "done"} else DEGRADED


def _dead(part: dict[str, Any]) -> dict[str, Any]:
    return part | {"state": "stopped", "healthy": False, "pid": None}


def _told(project: Path) -> dict[str, Any]:
    """Return what the supervisor wrote last; nothing when there never was one."""
    try:
        told: dict[str, Any] = json.loads((project / STACK / "state.json").read_text())
    except (OSError, ValueError):
        return {}
    return told


def lines(status: Status) -> list[str]:
    """Return the status as a table for people."""
    rows = [("part", "state", "pid", "address", "since", "restarts")]
    for part in status.parts:
        address = part["url"] or (f"127.0.0.1:{part['port']}" if part["port"] else "")
        row = (part["state"], str(part["pid"] or ""), address, _ago(part["since"]), str(part["restarts"]))
        rows.append((part["title"], *row))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    said = [f"{part['title']}: {part['message']} ({part['log']})" for part in status.parts if part["message"]]
    left = [f"left over: {', '.join(map(str, status.leftovers))}"] if status.leftovers else []
    return [*(table if status.parts else []), *said, *left, f"The stack is {status.state}: {MEANINGS[status.state]}."]


def _ago(then_s: float) -> str:
    seconds = max(0, round(time.time() - then_s))
    for unit, length_s in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length_s:
            return f"{seconds // length_s} {unit}"
    return f"{seconds} s"
