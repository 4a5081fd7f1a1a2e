"""The verb `metrics` of the command line: any two sets of images, compared.

Below `cli.py`, which hangs it among the others, and imports as little at the top; `stages/image_metrics.py` does what
it says. Knows nothing of params.yaml.
"""

import argparse
import json
from pathlib import Path
from typing import Any


def add_metrics(verbs: Any) -> None:
    """Add the verb."""
    metrics = verbs.add_parser(
        "metrics",
        help="compare any two folders or archives of images: KID, FID, precision, recall, ...",
        description="Compare any two folders or archives of images. Needs no params.yaml and no store.",
        epilog="What the numbers mean: docs/evaluation.md.",
    )
    metrics.set_defaults(verb_function=_metrics)
    metrics.add_argument("real", metavar="REAL", help="folder, zip or tar of real images, best such as no model saw")
    metrics.add_argument("fake", metavar="FAKE", help="folder, zip or tar of generated images")
    metrics.add_argument("--train", metavar="DIR", help="the images trained on: adds diversity and memorization")
    metrics.add_argument("--extractor", default="lite0", help="lite0 (default), pixels, inception or dinov2")
    metrics.add_argument("--weights", metavar="FILE", help="those of inception or dinov2: FILE or URL[#sha256=...]")
    metrics.add_argument("--metrics", nargs="+", metavar="NAME", help="such as kid fid (default: all there can be)")
    metrics.add_argument("--resolution", type=int, metavar="PX", help="first crop to a square, resize it to PX pixels")
    metrics.add_argument("--cache", type=Path, metavar="DIR", help="keep the features of REAL and of --train there")
    metrics.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def _metrics(parsed: argparse.Namespace) -> None:
    """Compare two sets of images."""
    from genxfer.errors import ParameterError
    from genxfer.stages.image_metrics import Comparison, compare
    from genxfer.terminal import print_metrics, show_progress

    if parsed.resolution is not None and not 4 <= parsed.resolution <= 4096:
        raise ParameterError(f"--resolution is {parsed.resolution}; allowed: 4 to 4096 pixels.")
    show_progress()
    chosen = None if parsed.metrics is None else tuple(parsed.metrics)
    numbers = compare(
        Comparison(
            parsed.real,
            parsed.fake,
            parsed.train,
            parsed.extractor,
            parsed.weights,
            chosen,
            parsed.resolution,
            parsed.cache,
        )
    )
    if parsed.json:
        print(json.dumps(numbers))
    else:
        print_metrics(numbers)
