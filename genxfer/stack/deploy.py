"""Make the work pool and register the deployments of prefect.yaml, where PREFECT_API_URL points.

`python -m genxfer.stack.deploy` runs once at each start of the stack, when Prefect's server answers, and in containers
before a worker starts. With a TEMPLATE, what a flow run's Job is made from, the pool is one for Kubernetes. What was
set in the pages stays: schedules that were added, the pool's limit and whether it is paused.
"""

import json
import os
import subprocess
import sys
import urllib.error
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genxfer.artifacts.atomic import write_json_atomic
from genxfer.stack.prefect_api import Api, api_of_environment
from genxfer.stack.settings import POOL

Schedules = dict[str, list[dict[str, Any]]]  # of each deployment, by its id


def main(template: Path | None = None) -> int:
    """Return 0, or how `prefect deploy` failed."""
    api = api_of_environment()
    _make_pool(api, None if template is None else job_template(template.read_text(), os.environ))
    unfinished = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect") / "schedules-before.json"
    before = _together(_load(unfinished), _schedules(api))
    write_json_atomic(unfinished, before)  # killed after `prefect deploy`, the next one knows what there was
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    code = subprocess.run(command, env=os.environ | {"PWD": str(Path.cwd())}).returncode  # where runs start
    _restore(api, before, _schedules(api))
    unfinished.unlink()
    return code


def job_template(text: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return a template of Jobs with the image and the number of GPUs that the environment names."""
    image, gpus = environment["GENXFER_IMAGE"], int(environment.get("GENXFER_GPUS") or 0)
    filled: dict[str, Any] = json.loads(text.replace('"IMAGE"', json.dumps(image)).replace('"GPUS"', str(gpus)))
    return filled


def _make_pool(api: Api, template: dict[str, Any] | None) -> None:
    pool: dict[str, Any] = {"name": POOL, "type": "process"}
    if template is not None:
        pool |= {"type": "kubernetes", "base_job_template": template}
    try:
        api("/work_pools/", pool)
    except urllib.error.HTTPError as error:
        if error.code != 409:  # it is there already
            raise
        there = api(f"/work_pools/{POOL}")["type"]
        if there != pool["type"]:
            sys.exit(
                f"The work pool {POOL} is for runs of the type {there}, not {pool['type']}. "
                f"Delete it first: prefect work-pool delete {POOL}"
            )
        if template is not None:
            api(f"/work_pools/{POOL}", {"base_job_template": template}, "PATCH")


def _load(path: Path) -> Schedules:
    try:
        found: Schedules = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    return found


def _together(*several: Schedules) -> Schedules:
    return {deployment: [one for some in several for one in some.get(deployment, [])] for deployment in several[-1]}


def _schedules(api: Api) -> Schedules:
    """Return the schedules of each deployment."""
    return {one["id"]: one["schedules"] for one in api("/deployments/filter", {})}


def _restore(api: Api, before: Schedules, after: Schedules) -> None:
    """Make the schedules again that the user had added: a deployment drops those that its file does not have."""
    for deployment, schedules in before.items():
        there = [(one["slug"], one["schedule"]) for one in after.get(deployment, [])]
        for one in schedules:
            slug, schedule = one["slug"], one["schedule"]
            if (slug, schedule) not in there and not (slug and slug in dict(there)):
                kept = {name: one[name] for name in ("schedule", "active", "slug", "parameters")}
                api(f"/deployments/{deployment}/schedules", [kept])
                there.append((slug, schedule))


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
