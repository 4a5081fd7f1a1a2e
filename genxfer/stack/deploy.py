"""Make the work pool and register the deployments of prefect.yaml, where PREFECT_API_URL points.

`python -m genxfer.stack.deploy` runs once at each start of the stack, when Prefect's server answers.
"""

import os
import subprocess
import sys
import urllib.error
from typing import Any

from genxfer.stack.health import ask
from genxfer.stack.settings import POOL


def main() -> int:
    """Return 0, or how `prefect deploy` failed."""
    api_url = os.environ["PREFECT_API_URL"]
    try:
        ask(f"{api_url}/work_pools/", {"name": POOL, "type": "process"})
    except urllib.error.HTTPError as error:
        if error.code != 409:  # it is there already
            raise
    before = _schedules(api_url)
    code = subprocess.run([sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]).returncode
    _restore(api_url, before, _schedules(api_url))
    return code


def _schedules(api_url: str) -> dict[str, list[dict[str, Any]]]:
    """Return the schedules of each deployment."""
    return {one["id"]: one["schedules"] for one in ask(f"{api_url}/deployments/filter", {})}


def _restore(api_url: str, before: dict[str, list[dict[str, Any]]], after: dict[str, list[dict[str, Any]]]) -> None:
    """Make the schedules again that the user had added: a deployment drops those that its file does not have."""
    for deployment, schedules in before.items():
        there = [(one["slug"], one["schedule"]) for one in after.get(deployment, [])]
        slugs = {slug for slug, _ in there if slug}
        for one in schedules:
            if one["slug"] not in slugs and (one["slug"], one["schedule"]) not in there:
                kept = {name: one[name] for name in ("schedule", "active", "slug", "parameters")}
                ask(f"{api_url}/deployments/{deployment}/schedules", [kept])


if __name__ == "__main__":
    sys.exit(main())
