"""The full stack's S3 as a DVC remote named `stack`, in `.dvc/config.local`, which Git never sees.

It holds the address and the name of the credentials file, no secret. Writes DVC's settings file; imports no DVC.
"""

import configparser
import io

from genxfer.artifacts.atomic import write_atomic
from genxfer.stack.credentials import REGION, CredentialFiles
from genxfer.stack.settings import Settings

REMOTE = "stack"
URL = "s3://dvc/genxfer"


def write_dvc_remote(settings: Settings) -> None:
    """Write the remote, if this is a DVC project; what else is in the file stays."""
    path = settings.project / ".dvc" / "config.local"
    if not path.parent.is_dir():
        return
    config = configparser.ConfigParser(interpolation=None)
    config.read(path)
    config[f"'remote \"{REMOTE}\"'"] = {
        "url": URL,
        "endpointurl": settings.s3_url,
        "credentialpath": str(CredentialFiles.of(settings).aws),
        "region": REGION,
    }
    with io.StringIO() as text:
        config.write(text)
        content = text.getvalue().encode()
    if not path.exists() or path.read_bytes() != content:
        write_atomic(path, content)
