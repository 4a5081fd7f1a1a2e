"""Cross-domain correspondence (Ojha et al. 2021): from the same z the adapted model makes what the source's answers to.

Distance consistency (eq. 4 and 5): in every layer of the sampling net, how alike a few latents' features are to each
other stays what it was in the source. That is all for families without a discriminator of patches (vae, mlp_vae,
mlp_gan).

Relaxed realism (sec. 3.2), for dcgan: the discriminator judges whole images only of latents next to a few anchors, one
for each target image, and patches of images of any latent. Both in every step, where the paper takes turns.
Knows nothing of optimizers or data.
"""

import copy
from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genxfer.models.family import Family, Step, evaluating
from genxfer.noise import Noise
from genxfer.transfer.config import MethodConfig
from genxfer.transfer.method import Method
from genxfer.transfer.patches import JUDGE, PatchHead, patch_features, patch_head

LATENTS = 8  # whose distances from each other are compared in a step, by each rank and micro-batch the same
ANCHOR_STD = 0.05  # of the normal noise around an anchor


class CDC(Method):
    """Every parameter moves; terms `cdc_distance`, and with patches `patch_real`, `patch_fake`, `patch_generator`."""

    source: nn.ModuleDict  # the sampling nets
    anchors: Tensor  # [A Z]: as many as there are target images (sec. 3.2)

    def __init__(self, config: MethodConfig) -> None:
        super().__init__(config)
        self.head: PatchHead | None = None

    def prepare(self, family: Family, seed: int, n_images: int, fresh: Collection[str] = ()) -> None:
        """Keep a copy of the source's sampling nets; make the anchors and the head of the patches."""
        nets = {name: family.nets[name] for name in family.sampling_nets}
        self.source = copy.deepcopy(nn.ModuleDict(nets)).eval().requires_grad_(False)
        self.noise_shape = family.noise(1, torch.Generator()).shape[1:]
        self.anchors = torch.randn(n_images, _latent_dim(family), generator=torch.Generator().manual_seed(seed))
        self.head = patch_head(family)
        if self.head is not None:
            self.nets[_phase_of(family, JUDGE)] = self.head

    def hold(self, family: Family, fixed_groups: dict[str, int]) -> None:
        """Let everything move; follow the nets to their device."""
        super().hold(family, fixed_groups)
        self.source.to(next(family.nets.parameters()).device).to(memory_format=family.memory_format)

    def latent(self, z: Tensor, noise: Noise) -> Tensor:
        """Return latents next to an anchor each, drawn at random, where patches judge all others; else `z` [N Z]."""
        if self.head is None:
            return z
        which = (noise.uniform((len(z),), z) * len(self.anchors)).long()
        return self.anchors.to(z.device)[which] + ANCHOR_STD * z

    def terms(self, family: Family, phase: str, real: Tensor, step: Step) -> dict[str, Tensor]:
        """Return the patches' logistic loss of one side, and where the sampling net moves the distances' divergence."""
        terms: dict[str, Tensor] = {}
        if self.head is not None and phase == _phase_of(family, JUDGE):
            terms |= self._judging(family, self.head, real, step)
        if phase == _phase_of(family, family.sampling_nets[0]):
            if self.head is not None:
                terms |= self._generating(family, self.head, real, step)
            terms["cdc_distance"] = self.config.strength * self._divergence(family, real, step)
        return terms

    def _judging(self, family: Family, head: PatchHead, real: Tensor, step: Step) -> dict[str, Tensor]:
        with torch.no_grad():
            fake = _sampling_net(family)(_free_latents(family, real, step))
        real_logits = head(patch_features(family, step.augment(real))).float()
        fake_logits = head(patch_features(family, step.augment(fake))).float()
        return {"patch_real": F.softplus(-real_logits).mean(), "patch_fake": F.softplus(fake_logits).mean()}

    def _generating(self, family: Family, head: PatchHead, real: Tensor, step: Step) -> dict[str, Tensor]:
        fake = _sampling_net(family)(_free_latents(family, real, step))
        logits = head.judge(patch_features(family, step.augment(fake)))
        return {"patch_generator": F.softplus(-logits).mean()}

    def _divergence(self, family: Family, real: Tensor, step: Step) -> Tensor:
        """Return the mean over latents and layers of KL(adapted || source) of their likeness to the other latents.

        In eval mode: LATENTS images have poor statistics, and must not leave a trace in the running ones.
        """
        net = _sampling_net(family)
        # Where the source model draws its samples from: elsewhere it is nothing to stay near to.
        z = family.latent(self.source, step.noise.common((LATENTS, *self.noise_shape), real))
        with torch.no_grad():
            of_source = [log_likeness(features) for features in layers(_sampling_net(family, self.source), z)]
        with evaluating(net):
            of_adapted = [log_likeness(features) for features in layers(net, z)]
        return torch.stack([divergence(p, q) for p, q in zip(of_adapted, of_source, strict=True)]).mean()


def layers(net: nn.Sequential, z: Tensor) -> list[Tensor]:
    """Return what each layer group of `net` makes of `z` [N Z], one after the other."""
    features = []
    for layer in net:
        z = layer(z)
        features.append(z)
    return features


def log_likeness(features: Tensor) -> Tensor:
    """Return [N N-1] the logarithms of softmax over the others of the cosine similarity to them (eq. 4).

    `features` are [N ...]; in float32 even under autocast.
    """
    n = len(features)
    directions = F.normalize(features.flatten(1).float(), dim=1)
    with torch.autocast(features.device.type, enabled=False):
        similarity = directions @ directions.T
    others = ~torch.eye(n, dtype=torch.bool, device=features.device)
    return similarity[others].view(n, n - 1).log_softmax(dim=1)


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return KL(p || q) in nats [], the mean over rows of log p and log q [N K] (eq. 5)."""
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def _sampling_net(family: Family, nets: nn.ModuleDict | None = None) -> nn.Sequential:
    net = (nets or family.nets)[family.sampling_nets[0]]
    assert isinstance(net, nn.Sequential)
    return net


def _free_latents(family: Family, real: Tensor, step: Step) -> Tensor:
    return step.noise.normal((len(real), _latent_dim(family)), real)


def _latent_dim(family: Family) -> int:
    latent_dim: int = family.config.latent_dim  # type: ignore[attr-defined]
    return latent_dim


def _phase_of(family: Family, net: str) -> str:
    return next(phase.name for phase in family.phases if net in phase.nets)
