"""infra/Containerfile: linted, pinned, nobody's root, and made of what is meant to be in it and no more."""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import hatchling
import pytest

from tests.conftest import REPOSITORY
from tests.infra.containers import (
    CONTAINERFILE,
    USER,
    Container,
    copied,
    entrypoint,
    image_environment,
    instructions,
    own_processes,
)

HADOLINT = Path(sys.executable).with_name("hadolint")


def lint(text: str) -> str:
    """Return what hadolint says about a Containerfile."""
    program = str(HADOLINT) if HADOLINT.exists() else "hadolint"
    done = subprocess.run([program, "--no-color", "-"], input=text, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def test_the_linter_has_nothing_to_say() -> None:
    assert lint(CONTAINERFILE.read_text()) == ""


@pytest.mark.parametrize(
    ("sound", "slip", "rule"),
    [
        ("python:3.11.14-slim-bookworm", "python:latest", "DL3007"),
        ("USER 10001:10001", "USER root", "DL3002"),
        ("COPY flows flows", "ADD flows flows", "DL3020"),
        ("WORKDIR /project", "WORKDIR project", "DL3000"),
    ],
)
def test_a_slip_would_be_noticed(sound: str, slip: str, rule: str) -> None:
    text = CONTAINERFILE.read_text().replace("FROM ${PYTHON_IMAGE}", "FROM python:3.11.14-slim-bookworm")
    assert sound in text
    assert rule in lint(text.replace(sound, slip))


def test_the_base_is_pinned_to_a_release_of_the_python_that_the_lock_is_for() -> None:
    [base] = [rest for word, rest in instructions() if word == "ARG" and rest.startswith("PYTHON_IMAGE")]
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.11\.\d+-slim-\w+", base)
    assert "--python-version 3.11" in (REPOSITORY / "requirements.lock").read_text()[:500]
    assert {rest.split()[0] for word, rest in instructions() if word == "FROM"} == {"${PYTHON_IMAGE}"}


def test_it_runs_as_a_numbered_user_without_rights() -> None:
    assert [rest for word, rest in instructions() if word == "USER"] == [f"{USER}:{USER}"]
    after = instructions()[[word for word, _ in instructions()].index("USER") :]
    assert [word for word, _ in after] == ["USER", "ENTRYPOINT", "CMD"]
    assert "ADD" not in [word for word, _ in instructions()]


def test_every_package_comes_from_the_lock_with_its_hash() -> None:
    commands = [part.split() for word, rest in instructions() if word == "RUN" for part in rest.split("&&")]
    installs = [words for words in commands if "install" in words and words[0] != "apt-get"]
    assert len(installs) == 3
    for words in installs:
        if "--no-deps" in words:  # the project itself, built with what the lock names
            assert words[-2:] == ["--editable", "."]
            assert words[words.index("--build-constraints") + 1] == "requirements.lock"
        else:
            assert "--require-hashes" in words
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "container" in extras


def wheel(folder: Path) -> str:
    """Write the wheel of a package, and return its line in a lock."""
    path = folder / "small_part-1.0-py3-none-any.whl"
    about = "small_part-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("small_part.py", "")
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: small-part\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", f"small_part.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n")
    return f"small-part==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


@pytest.mark.parametrize("altered", [False, True])
def test_an_altered_package_is_refused(tmp_path: Path, altered: bool) -> None:
    """The command of the Containerfile, with a package and a lock of the test's own."""
    [command] = [rest for word, rest in instructions() if word == "RUN" and "--extra container" in rest]
    lock = wheel(tmp_path)
    if altered:
        lock = re.sub(r"sha256:\w{8}", "sha256:00000000", lock)
    (tmp_path / "requirements.lock").write_text(lock)
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "genxfer"\nversion = "0"\n[project.optional-dependencies]\ncontainer = ["small-part"]\n'
    )
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "venv"], cwd=tmp_path, check=True)
    offline = ["--python", "venv", "--no-cache", "--no-index", "--find-links", "."]
    words = [*uv, *shlex.split(command)[1:], *offline]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert ("Hash mismatch" in done.stderr) is altered, done.stderr
    assert (done.returncode != 0) is altered, done.stderr


def run_of(text: str) -> str:
    """Return the one command of the Containerfile that has `text` in it."""
    [command] = [rest for word, rest in instructions() if word == "RUN" and text in rest]
    return command


def build_environment(virtual_environment: Path) -> dict[str, str]:
    """Return what the first stage sets, with another place for /opt/genxfer."""
    words = [rest for word, rest in instructions() if word in ("ENV", "FROM")]
    first = words[1 : words.index("${PYTHON_IMAGE}", 1)]
    found = dict(pair.split("=", 1) for rest in first for pair in shlex.split(rest))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    found = {
        name: value.replace("/opt/genxfer", str(virtual_environment)).replace("$PATH", path)
        for name, value in found.items()
    }
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | found


@pytest.mark.slow
def test_the_project_is_installed_into_the_virtual_environment_of_the_image(tmp_path: Path, image: Path) -> None:
    """The commands that make the environment and install the project, offline and in another place than /opt.

    Left out, as they need a package index: uv's own wheel, for which a wheel and a lock of the test's stand; and what
    builds the project (hatchling), which comes from this environment by `--no-build-isolation` and PYTHONPATH instead
    of from the lock. The packages in between are those of `test_an_altered_package_is_refused`. The second stage's
    apt-get, groupadd and chown would change this machine, and are not run anywhere.
    """
    project, place, wheels = tmp_path / "project", tmp_path / "venv", tmp_path / "wheels"
    shutil.copytree(image, project)
    wheels.mkdir()
    (project / "infra" / "bootstrap.lock").write_text(wheel(wheels))
    environment = build_environment(place)
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    make = run_of("python -m venv").replace("/opt/genxfer", str(place))
    subprocess.run(["sh", "-c", make], cwd=project, env=environment | offline, check=True)

    packages = {"PYTHONPATH": str(Path(hatchling.__file__).parents[1])}
    install = [*shlex.split(run_of("--editable")), "--no-build-isolation", "--offline"]
    subprocess.run(install, cwd=project, env=environment | packages, check=True)

    asked = "import small_part, genxfer, tasks, flows; print(*(p.__path__[0] for p in (genxfer, tasks, flows)))"
    done = subprocess.run(
        [place / "bin" / "python", "-c", asked],
        cwd=tmp_path,
        env=environment | packages,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(project / name) for name in ("genxfer", "tasks", "flows")]
    help_asked = subprocess.run(
        command_of_image(), cwd=tmp_path, env=environment | packages, capture_output=True, text=True, check=True
    )
    assert "evaluate" in help_asked.stdout
    assert (place / "bin" / command_of_image()[0]).read_text().startswith(f"#!{place}")


def command_of_image() -> list[str]:
    [command] = [rest for word, rest in instructions() if word == "CMD"]
    found: list[str] = json.loads(command)
    return found


@pytest.mark.slow
def test_a_container_that_is_told_nothing_says_what_it_can_do(image: Path, tmp_path: Path) -> None:
    """ENTRYPOINT and CMD, as the image's user, on a read-only root, without a variable or a volume."""
    with own_processes("genxfer-help", tmp_path) as machine:
        code, said = machine.run(Container(image, [*entrypoint(), *command_of_image()], {}))
    assert (code, said.splitlines()[0].startswith("usage: genxfer")) == (0, True), said


def test_what_is_copied_is_there_and_allowed_into_the_context() -> None:
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    for source, _ in copied():
        assert (REPOSITORY / source).exists()
        assert source.split("/")[0] in allowed, source
    assert {"**/.env", "**/secrets.env"} <= set(rules)
    assert not any(fnmatch(name, rule) for name in (".git", ".genxfer", "data", "tests") for rule in allowed)


def test_no_secret_is_part_of_the_image() -> None:
    named = [rest for word, rest in instructions() if word in ("ARG", "ENV")]
    assert not re.search(r"PASSWORD|SECRET|TOKEN|KEY|AUTH", " ".join(named))
    assert "NVIDIA_VISIBLE_DEVICES" not in image_environment()
    assert image_environment()["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
