"""Where the seconds of a training run go, and what is told of it afterwards.

Measured by the engine in this process alone: a resumed run counts from its resumption. Knows nothing of nets.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from genxfer.training.precision import Precision
from genxfer.transfer.freeze import GroupRow


@dataclass(frozen=True)
class TrainResult:
    """How a run went; `seconds`, the rates and the shares are of this process alone."""

    images_seen: int
    seconds: float
    images_per_s: float
    data_wait_share: float
    checkpoint_share: float
    samples_share: float
    report_share: float  # curves, the experiment tracker and the terminal
    validation_share: float
    layer_groups: list[GroupRow]  # what moved at the start
    moved_parameters: int  # at the end
    fixed_parameters: int
    precision: Precision
    processes: int
    micro_batch: int  # the most images of one process that are in one backward pass
    rollbacks: int
    resumed_from: int | None
    best_kimg: float | None = None  # of what is published, where validation chose it
    best_validation_kid: float | None = None
    final_validation_kid: float | None = None  # None also where it was no number

    def facts(self) -> dict[str, Any]:
        """Return it as JSON facts for a record."""
        return asdict(self)

    def __str__(self) -> str:
        """Return what people are told: the speed, and what was not training."""
        shares = {
            "data": self.data_wait_share,
            "checkpoints": self.checkpoint_share,
            "samples": self.samples_share,
            "reports": self.report_share,
            "validation": self.validation_share,
        }
        parts = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
        speed = f"{self.images_seen / 1000:g} kimg, {self.images_per_s:,.0f} images/s in {self.seconds:.1f} s; {parts}"
        if self.best_kimg is None:
            return speed
        final = "no number" if self.final_validation_kid is None else f"{self.final_validation_kid:.3f}"
        best = f"validation KID {self.best_validation_kid:.3f} at {self.best_kimg:g} kimg"
        return f"{speed}; {best}, which is published, {final} at the end"


@dataclass
class Pace:
    """Where the seconds of this process go."""

    started_s: float = field(default_factory=time.perf_counter)
    images: int = 0
    checkpoint_s: float = 0.0
    samples_s: float = 0.0
    report_s: float = 0.0
    validation_s: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds since training began in this process."""
        return time.perf_counter() - self.started_s

    @property
    def images_per_s(self) -> float:
        """Images seen per second, everything included."""
        return self.images / max(self.seconds, 1e-9)

    @contextmanager
    def validating(self) -> Iterator[None]:
        """Count what happens meanwhile as validation."""
        started_s = time.perf_counter()
        yield
        self.validation_s += time.perf_counter() - started_s

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Count what happens meanwhile as reporting."""
        started_s = time.perf_counter()
        yield
        self.report_s += time.perf_counter() - started_s
