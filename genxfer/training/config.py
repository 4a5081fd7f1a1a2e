"""What a training run can be told: concrete numbers, read without importing torch.

`auto` in params.yaml is resolved before one of these is made. TrainConfig decides the result and is part of the
fingerprint; ComputeConfig only decides how fast it is reached, with the exceptions that it names.
"""

import math
from collections.abc import Collection
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator

from genxfer.checked import Checked
from genxfer.errors import ParameterError
from genxfer.models.config import AugmentPolicy

ADAPTIVE: Final = "adaptive"
# What a run scores its own samples with: to choose its best snapshot, and to check the source model.
SCORE_EXTRACTOR, SCORE_METRIC = "lite0", "kid"


class TrainConfig(Checked):
    """The budget, the optimizer and the reporting of one training run."""

    kimg: float = Field(gt=0, le=1_000_000, description="Thousands of images to train on, repeats counted.")
    batch: int = Field(default=64, ge=1, le=65_536, description="Images per step, over all processes.")
    lr: float = Field(default=5e-4, gt=0, le=1, description="Adam's learning rate after warm-up.")
    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed of the data order and of all noise.")
    lr_schedule: Literal["constant", "cosine"] = Field(default="constant", description="Learning rate after warm-up.")
    warmup_kimg: float = Field(default=0.0, ge=0, description="The learning rate rises linearly over so many kimg.")
    ema_kimg: float = Field(default=5.0, ge=0, description="Half-life of the averaged weights; 0: no average.")
    mirror: bool = Field(default=False, description="Show each real image or its mirror image, by chance.")
    augment: AugmentPolicy = Field(default=(), description="DiffAugment policies for real and fake images alike.")
    augment_p: Literal["adaptive"] | Annotated[float, Field(ge=0, le=1)] = Field(
        default=1.0, description="Probability of each of them for each image; adaptive: as overfitting asks for (ADA)."
    )
    ada_kimg: float = Field(default=500.0, gt=0, description="adaptive moves it from 0 to 1 in so many kimg at most.")
    on_divergence: Literal["stop", "rollback"] = Field(
        default="stop", description="rollback: go on from the last good report, at half the learning rate."
    )
    validate_every_kimg: float | None = Field(
        default=None, gt=0, description="One score against the validation images every so many kimg; empty: none."
    )
    validation_samples: int = Field(default=128, ge=3, le=100_000, description="Samples drawn for each such score.")
    patience: int | None = Field(
        default=None, ge=1, description="Stop after so many scores in a row without improvement; empty: never."
    )
    report_every_kimg: float = Field(default=1.0, gt=0, description="One point of the curves every so many kimg.")
    samples_every_kimg: float = Field(default=10.0, gt=0, description="One picture of samples every so many kimg.")

    @property
    def total_images(self) -> int:
        """The budget in images; the step that reaches it is the last one."""
        return round(self.kimg * 1000)

    @property
    def last_step(self) -> int:
        """The images seen when the last step begins."""
        return max(self.total_images - 1, 0) // self.batch * self.batch


class ComputeConfig(Checked):
    """Where and how a run is computed; never changes what it is, save the precision and, in nets with BatchNorm,
    `micro_batch`: they take the statistics of each part of a batch.
    """

    devices: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        default="auto", description="Processes of each host, with a GPU each if it has any; auto: every GPU, else one."
    )
    nodes: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        default="auto", description="Hosts that train together; auto: as many as torchrun's or Slurm's variables say."
    )
    micro_batch: Literal["auto"] | Annotated[int, Field(ge=1, le=65_536)] = Field(
        default="auto",
        description="Images of one process in a backward pass; auto: as many as the memory holds. BatchNorm takes the "
        "statistics of so many.",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(default="auto", description="auto: bf16 where it is fast.")
    threads: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        default=1, description="Processor threads; auto leaves it to torch. Another number gives other last bits."
    )
    checkpoint_every_s: float = Field(default=20.0, ge=0, description="Seconds between two checkpoints.")

    @field_validator("checkpoint_every_s", mode="before")
    @classmethod
    def _auto_is_the_default(cls, value: Any) -> Any:
        """Take `auto`, as every key does."""
        return cls.model_fields["checkpoint_every_s"].default if value == "auto" else value


def check_batch(batch: int, processes: int, key: str = "batch") -> None:
    """Raise ParameterError when a batch cannot be shared out equally."""
    if batch % processes:
        raise ParameterError(
            f"{key} is {batch}, which does not divide among {processes} processes. Set {key} to a multiple of their "
            "number, or compute.devices (of each host) and compute.nodes so that it is one."
        )


def check_adaptive(config: TrainConfig, nets: Collection[str], section: str) -> None:
    """Raise ParameterError when `section` asks for adaptive augmentation and there is nothing to adapt it by, or to."""
    if config.augment_p != ADAPTIVE:
        return
    if "discriminator" not in nets:
        raise ParameterError(
            f"{section}.augment_p is 'adaptive', which follows how sure the discriminator is of real images, and this "
            f"family has no discriminator (its nets: {', '.join(nets)}). Set {section}.augment_p to a number from 0 to "
            "1, or model.family to dcgan or mlp_gan."
        )
    if not config.augment:
        raise ParameterError(
            f"{section}.augment_p is 'adaptive', but {section}.augment names no operation to apply. Set "
            f"{section}.augment, for example to [color, translation, cutout], or {section}.augment_p to 1."
        )


def check_augment(config: TrainConfig, nets: Collection[str], section: str) -> None:
    """Raise ParameterError when `section` asks for augmentation and there is no discriminator to see it.

    Any other net would learn to draw augmented images.
    """
    if config.augment and "discriminator" not in nets:
        raise ParameterError(
            f"{section}.augment is [{', '.join(config.augment)}], which only a discriminator may see, and this family "
            f"has none (its nets: {', '.join(nets)}). Set {section}.augment to auto, or model.family to dcgan or "
            f"mlp_gan. Mirrored images are for every family: {section}.mirror."
        )


def lr_at(config: TrainConfig, images_seen: int) -> float:
    """Return the learning rate of the step that starts at `images_seen`.

    Linear warm-up, which ends at the full rate, then constant or a half cosine to 0 at the end of the budget
    (Loshchilov & Hutter 2017).
    """
    warmup_images = config.warmup_kimg * 1000
    if images_seen + config.batch <= warmup_images:
        return config.lr * (images_seen + config.batch) / warmup_images
    if config.lr_schedule == "constant":
        return config.lr
    progress = (images_seen - warmup_images) / max(config.kimg * 1000 - warmup_images, 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
