"""A made-up evaluation, the same for every test of the page and of its words."""

import numpy as np

from genxfer.report.curves import Curves
from genxfer.report.evaluation import EvaluationReport, LayerGroupRow, Measured, Number, RealImages, Samples


def pictures(seed: int, channels: int = 1, size_px: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, channels, size_px, size_px), dtype=np.uint8)


def samples(seed: int, kid: float, standard_error: float, fid: float) -> Samples:
    low_high = (kid - 2 * standard_error, kid + 2 * standard_error)
    return Samples(pictures(seed), {"kid": Number(kid, standard_error, low_high), "fid": Number(fid)})


def made_up_report() -> EvaluationReport:
    """A transfer that helped; what it may lack, such as a filmstrip, it lacks."""
    curves = Curves((1000, 2000), {"D/real": (0.5, 0.25)})
    return EvaluationReport(
        family="dcgan",
        method="freeze",
        source=RealImages(pictures(0), "mnist", 5000),
        target=RealImages(pictures(1), "data/target", 100),
        test=RealImages(pictures(2), "digits", 1441),
        source_only=samples(3, 0.2093, 0.0041, 141.3),
        from_scratch=samples(4, 0.0672, 0.0022, 71.4),
        transferred=samples(5, 0.0217, 0.0012, 33.8),
        transfer_gain=Number(3.1, interval=(2.7, 3.55)),
        measured=Measured(1500, 1441, "lite0", 1280, "57" * 32, "ab" * 32, seed=7),
        curves={"pretrain": curves, "finetune": curves, "baseline": curves},
        layer_groups=(
            LayerGroupRow("generator", "block_32px", 1200, moving=1200),
            LayerGroupRow("discriminator", "block_32px", 320, moving=0),
            LayerGroupRow("discriminator", "head", 4097, moving=4097),
        ),
        lineage={"target data": {"DVC md5": "c0" * 16 + ".dir"}, "finetune": {"fingerprint": "fe" * 32}},
    )
