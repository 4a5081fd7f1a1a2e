"""The full stack's S3 as a DVC remote named `stack`, in `.dvc/config.local`, which Git never sees.

It holds the address and the name of the credentials file, no secret; what others wrote into the file may be one. Writes
DVC's settings file; imports no DVC.
"""

import configparser
import re
import stat

from genxfer.artifacts.atomic import write_atomic
from genxfer.errors import StoreError
from genxfer.stack.credentials import OWNER_ALONE, REGION, CredentialFiles
from genxfer.stack.settings import Settings

REMOTE = "stack"
URL = "s3://dvc/genxfer"

_SECTION = re.compile(r"\s*\[")
_OURS = re.compile(rf"""\s*\[\s*(['"]?)remote\s+"{REMOTE}"\1\s*\]""")  # as DVC writes it, or without its quotes


def write_dvc_remote(settings: Settings) -> None:
    """Write the remote, if this is a DVC project; the rest of the file stays as it is, and who may read it.

    Raises StoreError where DVC could not read the file either.
    """
    path = settings.project / ".dvc" / "config.local"
    if not path.parent.is_dir():
        return
    remote = {
        "url": URL,
        "endpointurl": settings.s3_url,
        "credentialpath": str(CredentialFiles.of(settings).aws),
        "region": REGION,
    }
    text, mode = "", OWNER_ALONE
    if path.exists():
        config = configparser.ConfigParser(interpolation=None)
        try:
            text = path.read_bytes().decode()
            config.read_string(text)
        except (configparser.Error, UnicodeDecodeError) as error:  # whose own words may be those of a password
            raise StoreError(
                f"{path} cannot be read ({type(error).__name__}), and the remote {REMOTE!r} is to be written into it. "
                "Correct the file first: `dvc config --list` says in which line. Or move it away."
            ) from None
        mode = stat.S_IMODE(path.stat().st_mode)
        if any(_OURS.fullmatch(f"[{name}]") and dict(config[name]) == remote for name in config.sections()):
            return
    lines = [f"['remote \"{REMOTE}\"']", *(f"    {name} = {value}" for name, value in remote.items())]
    write_atomic(path, _with_section(text, "\n".join(lines) + "\n").encode(), mode)
    path.chmod(mode)  # of which the user's mask took something away


def _with_section(text: str, section: str) -> str:
    """Return `text` with `section` in the place of ours, else at its end; what comments on the next one stays there."""
    lines = text.splitlines(keepends=True)
    begin = next((number for number, line in enumerate(lines) if _OURS.match(line)), None)
    if begin is None:
        return text + ("\n" if text and not text.endswith("\n") else "") + section
    end = next((number for number in range(begin + 1, len(lines)) if _SECTION.match(lines[number])), len(lines))
    while end > begin + 1 and lines[end - 1].lstrip()[:1] in ("", "#", ";"):
        end -= 1
    return "".join([*lines[:begin], section, *lines[end:]])
