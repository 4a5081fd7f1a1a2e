"""Which process it is: its number may be given to another one, and a clock that is set moves the time of its start.

For whoever writes a process down and looks for it later. Standard library only; where there is no /proc, it finds none.
"""

from dataclasses import dataclass
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # another one each time that the machine starts


@dataclass(frozen=True)
class Identity:
    """A process beyond doubt: its id, when it started in clock ticks since the machine did, and which boot that was."""

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> "Identity | None":
        """Return the identity of a process that runs; None when there is none, or only what is left of it."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            boot = BOOT_ID.read_text().strip()
        except OSError:
            return None
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]), boot)

    def alive(self) -> bool:
        """Whether this very process still runs, not another one with its id."""
        return Identity.of(self.pid) == self
