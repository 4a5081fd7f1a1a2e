"""Run one command as a container of the image would: python contain.py SPEC.json, as root, in a network namespace.

Of its own are the root folder, which cannot be written to, the project in /project, empty folders where the image has
some, the mounted volumes, the environment and the user. Python and its packages are those of this machine.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SYSTEM = ("/usr", "/etc", "/dev", "/proc", "/sys")
LINKS = ("/bin", "/sbin", "/lib", "/lib64")  # into /usr, on most systems
MERGED = "/opt/genxfer"  # where the image has its virtual environment


def main(spec: dict[str, Any]) -> None:
    """Become the command of `spec`."""
    root = Path(spec["root"])
    _mount("-t", "tmpfs", "tmpfs", str(root))
    for place in SYSTEM:
        _bind(place, root, recursive=True)
    for place in LINKS:
        if os.path.islink(place):
            os.symlink(os.readlink(place), root / place[1:])
        elif os.path.isdir(place):
            _bind(place, root, recursive=True)
    for target in spec["empty"]:  # before what may lie in one of them, as a virtual environment below /tmp does
        (root / target[1:]).mkdir(parents=True, exist_ok=True)
        _mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", str(root / target[1:]))
    for place in {sys.base_prefix, sys.prefix, *spec["libraries"]}:
        _bind(place, root)
    (root / "opt").mkdir(exist_ok=True)
    os.symlink(sys.prefix, root / MERGED[1:])
    _bind(spec["image"], root, "/project")
    _mount("-o", "remount,bind,ro", str(root / "project"))
    for target, source in spec["volumes"].items():
        _bind(source, root, target)
    _mount("-o", "remount,ro", str(root))
    os.chroot(root)
    os.chdir("/project")
    os.setgroups([])
    os.setgid(spec["user"])
    os.setuid(spec["user"])
    os.execvpe(spec["command"][0], spec["command"], spec["environment"])


def _bind(source: str, root: Path, target: str | None = None, recursive: bool = False) -> None:
    place = root / (target or source)[1:]
    if place.exists() and target:
        _mount("--bind", source, str(place))
        return
    if os.path.isdir(source):
        place.mkdir(parents=True, exist_ok=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    _mount("--rbind" if recursive else "--bind", source, str(place))


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


if __name__ == "__main__":
    os.umask(0o022)
    main(json.loads(Path(sys.argv[1]).read_text()))
