"""A fresh virtual environment that holds some installed distributions and what these need, and nothing else.

Made in a second and without a network: its site-packages are links to the files of this environment.
"""

import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def make_environment(folder: Path, *names: str) -> Path:
    """Return the interpreter of a new virtual environment in `folder`, with the distributions `names`."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    for name in sorted(needed(names)):
        for top_level in _top_levels(distribution(name)):
            _link(distribution(name), top_level, site_packages)
    return folder / "bin" / "python"


def needed(names: tuple[str, ...]) -> set[str]:
    """Return `names` and all that they require, as this environment has it."""
    found: set[tuple[str, str]] = set()
    open_ends = [(canonicalize_name(name), "") for name in names]
    while open_ends:
        if (end := open_ends.pop()) not in found:
            found.add(end)
            open_ends += _required(*end)
    return {name for name, _ in found}


def _required(name: str, extra: str) -> Iterator[tuple[str, str]]:
    for requirement in map(Requirement, distribution(name).requires or ()):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            for wanted in ("", *requirement.extras):
                yield canonicalize_name(requirement.name), wanted


def _link(owner: Distribution, top_level: str, site_packages: Path) -> None:
    """Link a package, a module or the metadata; file by file where several distributions share a folder."""
    if _owners()[top_level] == 1:
        (site_packages / top_level).symlink_to(Path(str(owner.locate_file(top_level))))
        return
    for file in owner.files or ():
        link = site_packages / file
        if file.parts[0] == top_level and not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(str(owner.locate_file(file))))


@cache
def _owners() -> dict[str, int]:
    counts: dict[str, int] = {}
    for owner in distributions():
        for top_level in _top_levels(owner):
            counts[top_level] = counts.get(top_level, 0) + 1
    return counts


def _top_levels(owner: Distribution) -> set[str]:
    return {file.parts[0] for file in owner.files or () if file.parts[0] not in ("..", "__pycache__")}
