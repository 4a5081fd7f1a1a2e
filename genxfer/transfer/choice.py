"""What `finetune.method: auto` stands for: a method by family and number of target images, and the reason for people.

The table is backed by benchmarks/transfer_gain.py (EXPERIMENTS.md), three seeds of every method with 10, 100 and 1,000
images: on digits, the method with the lowest KID, or as low as any beyond chance; with ten images, where those copied
their training images with every seed, the next that did with few or none. On emoji the methods of `dcgan` differ
little; those of `vae` do everywhere. Read without importing torch. Knows
nothing of nets.
"""

from dataclasses import dataclass

from genxfer.transfer.config import MethodName

FEW = 30  # target images; measured with 10, 100 and 1,000


@dataclass(frozen=True)
class Choice:
    """A method, and why it was chosen."""

    method: MethodName
    why: str


# For each family, from few images to many: up to so many target images, this method, for this reason.
CHOICES: dict[str, tuple[tuple[float, MethodName, str], ...]] = {
    "dcgan": (
        (FEW, "gradual", "on digits, methods that move everything at once repeated the training images"),
        (float("inf"), "full", "on digits no method came nearer to the test images beyond chance, and it did not copy"),
    ),
    "vae": ((float("inf"), "gradual", "on digits no method came nearer to the test images beyond chance"),),
}
UNMEASURED: tuple[tuple[float, MethodName, str], ...] = (
    (float("inf"), "full", "no other method was measured to be better for this family"),
)


def choose(family: str, n_train: int) -> Choice:
    """Return the method for `family` and `n_train` target images."""
    method, reason = next((m, why) for most, m, why in CHOICES.get(family, UNMEASURED) if n_train <= most)
    return Choice(method, f"{method} for family {family} and {n_train:,} target images: {reason}")
