"""Make the work pool and register the deployments of prefect.yaml, where PREFECT_API_URL points.

`python -m genxfer.stack.deploy` runs once at each start of the stack, when Prefect's server answers.
"""

import os
import subprocess
import sys
import urllib.error

from genxfer.stack.health import ask
from genxfer.stack.settings import POOL


def main() -> int:
    """Return 0, or how `prefect deploy` failed."""
    try:
        ask(f"{os.environ['PREFECT_API_URL']}/work_pools/", {"name": POOL, "type": "process"})
    except urllib.error.HTTPError as error:
        if error.code != 409:  # it is there already
            raise
    return subprocess.run([sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]).returncode


if __name__ == "__main__":
    sys.exit(main())
