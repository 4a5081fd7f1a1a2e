"""What each family can be told, and what it recommends: data only, read without importing torch.

A cached run must answer in a second, and importing torch alone takes several; so the sizes, ranges, recommended
budgets and layer-group names of a family stand here, and its nets, objective and sampling stand in the one file that
`module` names. The tests hold both to the same group names. Knows nothing of data, training or the pipeline.
"""

from typing import Any, ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from genxfer.checked import Checked
from genxfer.errors import ParameterError, nearest

AugmentPolicy = tuple[Literal["color", "translation", "cutout"], ...]


class Recommended(Checked):
    """What `auto` in the sections `pretrain` and `finetune` stands for, as measured in EXPERIMENTS.md."""

    pretrain_kimg: float
    finetune_kimg: float
    batch: int
    pretrain_lr: float
    finetune_lr: float
    lr_schedule: Literal["constant", "cosine"]
    ema_kimg: float
    pretrain_augment: AugmentPolicy = ()
    finetune_augment: AugmentPolicy = ()  # few images are soon known by heart; thousands are not
    validation_pause_kimg: float = 2.0  # between two validations: then they take about a tenth of the default run
    validation_samples: int = 64
    n_samples: int = 1500  # drawn for the evaluation: more than lite0 has features, or what is affordable


class FamilyConfig(Checked):
    """The keys that every family has; each family adds its own."""

    module: ClassVar[str]  # "genxfer.models.dcgan:DCGAN", imported only when something must be computed
    normalised: ClassVar[bool] = True  # whether the nets that draw samples have normalisation layers
    libraries: ClassVar[tuple[str, ...]] = ()  # beside torch, whose version can change what a training makes

    family: str
    width: int = Field(
        default=32, ge=4, le=1024, description="Channels of the widest resolution; others are multiples."
    )

    def check_image(self, resolution_px: int, channels: int) -> None:
        """Raise ParameterError when this family cannot make `channels` x `resolution_px` x `resolution_px` images."""
        raise NotImplementedError

    def layer_groups(self, resolution_px: int) -> dict[str, tuple[str, ...]]:
        """Return, for each net, the names of its layer groups from the image side to the latent side."""
        raise NotImplementedError


class ConvolutionalConfig(FamilyConfig):
    """What the families have in common whose blocks halve and double the size of images."""

    growth: ClassVar[int] = 8  # of the channels, from the image to the deepest block, unless `max_channels` says less

    max_channels: int | None = Field(
        default=None, ge=4, le=8192, description="No block has more channels; else eight times the width (flow: four)."
    )

    def check_image(self, resolution_px: int, channels: int) -> None:
        """Raise ParameterError unless the side is 16, 32, ... 256 pixels: each block halves or doubles it."""
        allowed = (16, 32, 64, 128, 256)
        if resolution_px not in allowed:
            raise ParameterError(
                f"dataset.resolution_px is {resolution_px}, but family {self.family!r} makes images of "
                f"{', '.join(map(str, allowed))} pixels only. Set dataset.resolution_px to one of these."
            )

    @property
    def most_channels(self) -> int:
        """How many channels no block exceeds."""
        return self.max_channels or self.growth * self.width

    def block_channels(self, blocks: int) -> list[int]:
        """Return the channels of each of so many blocks from the image side on: doubling, up to `most_channels`."""
        return [min(self.width * 2**i, self.most_channels) for i in range(blocks)]


class AutoencoderConfig(FamilyConfig):
    """What the variational autoencoders have in common."""

    libraries: ClassVar[tuple[str, ...]] = ("scikit-learn",)
    most_mixed_dimensions: ClassVar[int] = 256  # of z: each covariance has as many numbers as the square of that

    latent_dim: int = Field(default=32, ge=1, le=4096, description="Length of the latent z.")
    latent_components: int = Field(
        default=10,
        ge=0,
        le=100,
        description="Samples start from so many normal distributions, fitted to where the training images' latents lie "
        "(Ghosh et al. 2020); 0: from the prior, as it is where latent_dim is above 256.",
    )
    beta: float = Field(default=1.0, ge=0, description="Weight of the KL term once warmed up; 1 is the ELBO.")
    kl_warmup_kimg: float = Field(
        default=2.0, ge=0, description="The KL weight rises linearly from 0 over so many kimg."
    )

    @model_validator(mode="before")
    @classmethod
    def _mixes_what_is_small_enough(cls, values: Any) -> Any:
        latent_dim = values.get("latent_dim") if isinstance(values, dict) else None
        if isinstance(latent_dim, int) and latent_dim > cls.most_mixed_dimensions:
            return {"latent_components": 0} | values
        return values

    @model_validator(mode="after")
    def _is_small_enough_to_mix(self) -> Self:
        if self.latent_components and self.latent_dim > self.most_mixed_dimensions:
            raise ParameterError(
                f"model.latent_dim is {self.latent_dim} and model.latent_components is {self.latent_components}; "
                f"normal distributions are fitted to latents of at most {self.most_mixed_dimensions} numbers. Set "
                "model.latent_components=0, or a smaller model.latent_dim."
            )
        return self


def check_mlp_image(family: str, resolution_px: int, channels: int) -> None:
    """Raise ParameterError unless the image is 28x28 gray, the size of the classic dense nets."""
    if (resolution_px, channels) != (28, 1):
        raise ParameterError(
            f"dataset.resolution_px is {resolution_px} and dataset.channels is {channels}, but family {family!r} makes "
            "28x28 gray images only. Set dataset.resolution_px=28 and dataset.channels=1, or choose another family."
        )


def miner_group(miner_width: int) -> tuple[str, ...]:
    """Return the layer group that a generator with a miner has at its latent side."""
    return ("miner",) if miner_width else ()


def doublings(resolution_px: int) -> int:
    """Return how often 4 pixels double to reach `resolution_px`."""
    return (resolution_px // 4).bit_length() - 1


class DCGANConfig(ConvolutionalConfig):
    """Convolutional GAN (Radford et al. 2016) with logistic loss, lazy R1 and DiffAugment (StyleGAN2's objective)."""

    module: ClassVar[str] = "genxfer.models.dcgan:DCGAN"

    family: Literal["dcgan"] = "dcgan"
    latent_dim: int = Field(default=64, ge=1, le=4096, description="Length of the latent z.")
    miner_width: int = Field(
        default=0, ge=0, le=8192, description="Hidden units of a net that chooses the latents (MineGAN); 0: none."
    )
    discriminator_normalization: Literal["none", "batch", "instance", "group"] = Field(
        default="group", description="Between the discriminator's convolutions."
    )
    r1_gamma: float = Field(
        default=0.03, ge=0, description="Weight of the gradient penalty on real images; 0 turns it off."
    )
    r1_every: int = Field(
        default=16, ge=1, description="The penalty is taken every so many steps (lazy regularisation)."
    )

    def layer_groups(self, resolution_px: int) -> dict[str, tuple[str, ...]]:
        """Return one group per resolution, and the end at the latent or the logit."""
        count = doublings(resolution_px)
        blocks = tuple(f"block_{resolution_px >> i}px" for i in range(count))
        return {
            "generator": (*blocks, "projection", *miner_group(self.miner_width)),
            "discriminator": (*blocks, "head"),
        }


class VAEConfig(AutoencoderConfig, ConvolutionalConfig):
    """Convolutional variational autoencoder (Kingma & Welling 2014) with beta and KL warm-up."""

    module: ClassVar[str] = "genxfer.models.vae:VAE"

    family: Literal["vae"] = "vae"
    likelihood: Literal["gaussian", "bernoulli"] = Field(
        default="gaussian", description="Of a pixel: gaussian for any image, bernoulli for black-and-white ones."
    )
    observation_std: float = Field(
        default=0.15,
        gt=0,
        description="Standard deviation of the Gaussian around each decoded pixel, in units of [0, 1].",
    )

    def layer_groups(self, resolution_px: int) -> dict[str, tuple[str, ...]]:
        """Return one group per resolution, and the end at the latent."""
        blocks = tuple(f"block_{resolution_px >> i}px" for i in range(doublings(resolution_px)))
        return {"encoder": (*blocks, "head"), "decoder": (*blocks, "projection")}


class MLPGANConfig(FamilyConfig):
    """The dense GAN of the tutorials (Goodfellow et al. 2014) on 28x28 images."""

    module: ClassVar[str] = "genxfer.models.mlp:MLPGAN"
    normalised: ClassVar[bool] = False

    family: Literal["mlp_gan"] = "mlp_gan"
    width: int = Field(default=1024, ge=4, le=8192, description="Units of the hidden layers.")
    latent_dim: int = Field(default=64, ge=1, le=4096, description="Length of the latent z.")
    miner_width: int = Field(
        default=0, ge=0, le=8192, description="Hidden units of a net that chooses the latents (MineGAN); 0: none."
    )

    def check_image(self, resolution_px: int, channels: int) -> None:
        """Raise ParameterError unless the image is 28x28 gray."""
        check_mlp_image(self.family, resolution_px, channels)

    def layer_groups(self, resolution_px: int) -> dict[str, tuple[str, ...]]:
        """Return the three layers of each net, and the generator's miner."""
        layers = ("pixels", "hidden_2", "hidden_1", *miner_group(self.miner_width))
        return {"generator": layers, "discriminator": ("hidden_1", "hidden_2", "head")}


class MLPVAEConfig(AutoencoderConfig):
    """The dense variational autoencoder of the tutorials on 28x28 images: Bernoulli pixels."""

    module: ClassVar[str] = "genxfer.models.mlp:MLPVAE"
    normalised: ClassVar[bool] = False

    family: Literal["mlp_vae"] = "mlp_vae"
    width: int = Field(default=1024, ge=4, le=8192, description="Units of the hidden layers.")

    def check_image(self, resolution_px: int, channels: int) -> None:
        """Raise ParameterError unless the image is 28x28 gray."""
        check_mlp_image(self.family, resolution_px, channels)

    def layer_groups(self, resolution_px: int) -> dict[str, tuple[str, ...]]:
        """Return the three layers of each net."""
        return {"encoder": ("hidden_1", "hidden_2", "head"), "decoder": ("pixels", "hidden_2", "hidden_1")}


class FlowConfig(ConvolutionalConfig):
    """Flow matching along straight lines (rectified flow; Liu et al. 2023, Lipman et al. 2023) with a small U-Net."""

    module: ClassVar[str] = "genxfer.models.flow:Flow"
    growth: ClassVar[int] = 4

    family: Literal["flow"] = "flow"
    sample_steps: int = Field(
        default=12, ge=1, le=1000, description="Heun steps from noise to data; two net calls each, one in the last."
    )

    def layer_groups(self, resolution_px: int) -> dict[str, tuple[str, ...]]:
        """Return one group per U-Net level, its way down and up together; the deepest holds the attention."""
        levels = tuple(f"level_{resolution_px >> i}px" for i in range(doublings(resolution_px)))
        return {"unet": ("image", *levels, "time")}


# The two places to add a family of one's own to: this line, and RECOMMENDED.
AnyFamilyConfig = DCGANConfig | VAEConfig | MLPGANConfig | MLPVAEConfig | FlowConfig

FAMILIES: dict[str, type[FamilyConfig]] = {
    config.model_fields["family"].default: config for config in get_args(AnyFamilyConfig)
}


# Apart from the configs: a recommendation becomes a parameter, and must not count as code of every stage.
RECOMMENDED: dict[str, Recommended] = {
    "dcgan": Recommended(
        pretrain_kimg=60,
        finetune_kimg=10,
        batch=16,
        pretrain_lr=2e-3,
        finetune_lr=3e-3,
        lr_schedule="constant",
        ema_kimg=3,
        finetune_augment=("translation",),
    ),
    "vae": Recommended(
        pretrain_kimg=60,
        finetune_kimg=10,
        batch=16,
        pretrain_lr=2e-3,
        finetune_lr=5e-3,
        lr_schedule="cosine",
        ema_kimg=2,
    ),
    "mlp_gan": Recommended(
        pretrain_kimg=100,
        finetune_kimg=15,
        batch=32,
        pretrain_lr=3e-4,
        finetune_lr=3e-4,
        lr_schedule="constant",
        ema_kimg=5,
        validation_pause_kimg=3,
    ),
    "mlp_vae": Recommended(
        pretrain_kimg=60,
        finetune_kimg=10,
        batch=32,
        pretrain_lr=1e-3,
        finetune_lr=1e-3,
        lr_schedule="cosine",
        ema_kimg=2,
    ),
    "flow": Recommended(
        pretrain_kimg=30,
        finetune_kimg=4,
        batch=16,
        pretrain_lr=1e-3,
        finetune_lr=1e-3,
        lr_schedule="cosine",
        ema_kimg=2,
        validation_samples=32,  # 23 net calls each
        n_samples=300,
    ),
}


def family_config(values: dict[str, Any]) -> FamilyConfig:
    """Return the config of `values["family"]`; raises ParameterError if it is unknown, pydantic's error on the rest."""
    name = values.get("family")
    if name not in FAMILIES:
        raise ParameterError(
            f"model.family is {name!r}; known families: {', '.join(FAMILIES)}.{nearest(str(name), FAMILIES)}"
        )
    return FAMILIES[name].model_validate(values)
