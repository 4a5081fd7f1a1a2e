"""What `finetune.method: auto` stands for: a method by family and number of target images, and the reason for people.

The table is backed by the measurements of benchmarks/transfer_gain.py; read without importing torch. Knows nothing of
nets.
"""

from dataclasses import dataclass

from genxfer.transfer.config import MethodName


@dataclass(frozen=True)
class Choice:
    """A method, and why it was chosen."""

    method: MethodName
    why: str


# For each family, from few images to many: up to so many target images, this method.
CHOICES: dict[str, tuple[tuple[float, MethodName], ...]] = {
    "dcgan": ((float("inf"), "freeze_d"),),
    "vae": ((float("inf"), "full"),),
    "mlp_gan": ((float("inf"), "full"),),
    "mlp_vae": ((float("inf"), "full"),),
    "flow": ((float("inf"), "full"),),
}


def choose(family: str, n_train: int) -> Choice:
    """Return the method for `family` and `n_train` target images."""
    method = next(method for most, method in CHOICES[family] if n_train <= most)
    return Choice(method, f"{method} for family {family} and {n_train:,} target images")
