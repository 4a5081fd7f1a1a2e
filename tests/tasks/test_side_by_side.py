"""One task for several variants: a failure costs its own variant alone, unless nothing is left, with each store."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, clean_environment
from tests.seaweed import Seaweed

SCRIPT = Path(__file__).with_name("one_fails.py")


@pytest.mark.slow
@pytest.mark.service
@pytest.mark.parametrize("store", ["local", "s3"])
def test_a_variant_that_fails_is_left_out_and_all_failing_is_an_error(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    environment = clean_environment(tmp_path) | {"PYTHONPATH": str(REPOSITORY)}
    if store == "s3":
        seaweed: Seaweed = request.getfixturevalue("seaweed")
        environment |= seaweed.environment | {"GENXFER_STORE": "s3://bucket/side-by-side"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], cwd=tmp_path, env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    kept, message = ["full", "gradual"], "the loss is not finite"
    *one_fails, one_is_killed = [json.loads(line) for line in done.stdout.splitlines()]
    assert one_fails == [kept, message, kept, message]
    for part in ("was killed, perhaps for want of memory", "compare.at_once is 2", "run the same command again"):
        assert part in one_is_killed
