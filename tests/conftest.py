"""What all tests share: a working folder of a user, with a configuration that trains for seconds."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
from hypothesis import settings

settings.register_profile("patient", deadline=None)  # how long an example takes says how busy the machine is
settings.load_profile("patient")

if TYPE_CHECKING:
    from tests.seaweed import Seaweed

# Tests run side by side, one for each processor. With as many threads in each, the small operations of these nets wait
# at every barrier for a thread that has no processor (EXPERIMENTS.md, "one thread is the default"). Before torch comes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Background jobs ignore Ctrl-C, and `nohup` the end of the terminal: so would every process that tests start and end.
for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, default)

REPOSITORY = Path(__file__).resolve().parents[1]


def not_possible_here(reason: str) -> NoReturn:
    """Skip a test that needs more than every contributor has, such as root; fail it where CI_RUN promises that."""
    if os.environ.get("CI_RUN"):
        pytest.fail(f"skipped in CI, where it has to run: {reason}")
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """Let no test inherit what another one, by calling the command line in this process, does on a signal."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# Real data and every stage, but a small net, a few hundred images of training and few held-out images.
TINY = (
    "model.width=4",
    "model.latent_dim=4",
    "dataset.resolution_px=16",
    "dataset.target.n_train=1700",
    "pretrain.kimg=0.25",
    "pretrain.batch=16",
    "finetune.kimg=0.12",
    "finetune.batch=16",
    "finetune.freeze={discriminator: 1}",
    "evaluate.extractor=pixels",
    "evaluate.n_samples=64",
    "compute.threads=1",
)

GenxferRun = Callable[..., "subprocess.CompletedProcess[str]"]


def clean_environment(folder: Path) -> dict[str, str]:
    """Return an environment in which nothing of the developer's own set-up can reach a test."""
    foreign = ("PREFECT", "MLFLOW", "GENXFER", "AWS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    return kept | {"PATH": path, "PREFECT_HOME": str(folder / ".prefect"), "MLFLOW_DISABLE_TELEMETRY": "true"}


def write_params(path: Path, overrides: tuple[str, ...]) -> None:
    """Write the repository's params.yaml with `overrides` laid over it."""
    import yaml

    from genxfer.config import _override

    values = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    for override in overrides:
        _override(values, override)
    path.write_text(yaml.safe_dump(values, sort_keys=False))


@pytest.fixture(scope="session")
def make_workspace(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that makes a user's working folder: params.yaml with overrides, dvc.yaml, data/."""

    def make(*overrides: str) -> Path:
        folder = tmp_path_factory.mktemp("workspace")
        write_params(folder / "params.yaml", (*TINY, *overrides))
        shutil.copy(REPOSITORY / "dvc.yaml", folder)
        (folder / "data").mkdir()
        return folder

    return make


@pytest.fixture(scope="session")
def make_clone(make_workspace: Callable[..., Path]) -> Callable[..., Path]:
    """Return a function that makes a fresh clone of the project, with its code and DVC, and the tiny configuration."""

    def make(*overrides: str) -> Path:
        folder = make_workspace(*overrides)
        ignore = shutil.ignore_patterns("__pycache__")
        for name in ("genxfer", "tasks", "flows", ".dvc"):
            kept = shutil.ignore_patterns("__pycache__", "cache", "tmp", "config.local") if name == ".dvc" else ignore
            shutil.copytree(REPOSITORY / name, folder / name, ignore=kept)
        for name in (".dvcignore", ".gitignore", "data/README.md"):
            shutil.copy(REPOSITORY / name, folder / name)
        subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
        return folder

    return make


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Seaweed"]:
    """A running S3 server with the bucket `bucket`; a test that harms its server starts one of its own instead."""
    from tests.seaweed import Seaweed

    server = Seaweed(tmp_path_factory.mktemp("seaweed"))
    try:
        server.start().client().create_bucket(Bucket="bucket")
        yield server
    finally:
        server.kill()


@pytest.fixture
def workspace(make_workspace: Callable[..., Path]) -> Path:
    """A fresh working folder with the tiny configuration."""
    return make_workspace()


@pytest.fixture(scope="session")
def genxfer() -> GenxferRun:
    """Return a function that runs the command line in a folder, in a process of its own."""

    def run(
        folder: Path, *arguments: str, timeout_s: float = 240, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "genxfer", *arguments],
            cwd=folder,
            env=clean_environment(folder) | {"PYTHONPATH": str(REPOSITORY)} | environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    return run
