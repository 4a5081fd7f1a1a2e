"""Memory: a metric takes a few hundred MB beside the features, however many images there are."""

import subprocess
import sys
import textwrap

import pytest

from genxfer.metrics import METRICS

# Every pair of 12,000 images as float64 would take 1.15 GB; tiles and what goes with them are allowed 400 MB.
SCRIPT = """
    import resource, torch
    from pathlib import Path
    from genxfer.metrics import load_metric
    from genxfer.metrics.sets import FeatureSets
    torch.manual_seed(0)
    few = FeatureSets(torch.rand(300, 64), torch.rand(300, 64), torch.rand(20, 64))
    metric = load_metric("{name}")
    metric(few)
    sets = FeatureSets(torch.rand(12_000, 64), torch.rand(12_000, 64), torch.rand(3, 64))
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    before_mb = peak()
    metric(sets)
    print(peak() - before_mb)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", METRICS)
def test_memory_does_not_grow_with_the_pairs_of_images(name: str) -> None:
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT.format(name=name))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 400
