"""Which results of stages the registry refers to: those behind every version, and those that runs use.

For `genxfer gc`. Knows nothing of stores; a result is a stage and a fingerprint.
"""

import time
from collections.abc import Iterator, Mapping

from genxfer.registry.config import LINEAGE_TAG, is_there, registry_uri, tracking_uri
from genxfer.registry.connection import all_pages, connect, explained
from genxfer.registry.runs import FINGERPRINT_TAG, used_in

Result = tuple[str, str]  # stage and fingerprint


def registered_results() -> dict[Result, str]:
    """Return the results behind every version of every registered model, with its URI; raises RegistryError."""
    if not is_there(registry_uri()):
        return {}
    client = connect()
    with explained("Listing the registered versions"):
        versions = list(all_pages(client.search_model_versions))
    found: dict[Result, str] = {}
    for version in versions:
        for stage, fingerprint in _lineage(version.tags):
            found.setdefault((stage, fingerprint), f"models:/{version.name}/{version.version}")
    return found


def recent_results(within_s: float) -> dict[Result, str]:
    """Return the results that runs use or used, with the run's name: of those under way, however old, and recent ones.

    Recent ones began within `within_s` seconds. Raises RegistryError.
    """
    if not is_there(tracking_uri()):
        return {}
    client, since_ms = connect(), int((time.time() - within_s) * 1000)
    with explained("Listing the recent runs"):
        experiments = [experiment.experiment_id for experiment in all_pages(client.search_experiments)]
        wanted = ("attributes.status = 'RUNNING'", f"attributes.start_time > {since_ms}")
        runs = [run for which in wanted for run in all_pages(client.search_runs, experiments, which)]
    found: dict[Result, str] = {}
    for run in runs:
        for result in _used(run.info.run_name, run.data.tags):
            open_yet = ", which is under way" if run.info.status == "RUNNING" else ""
            found.setdefault(result, f"the run {run.info.run_name} {run.info.run_id[:8]}{open_yet}")
    return found


def _lineage(tags: Mapping[str, str]) -> Iterator[Result]:
    if FINGERPRINT_TAG in tags:
        yield "register", tags[FINGERPRINT_TAG]
    for tag, fingerprint in tags.items():
        if tag.startswith(LINEAGE_TAG):
            yield tag.removeprefix(LINEAGE_TAG), fingerprint


def _used(name: str, tags: Mapping[str, str]) -> Iterator[Result]:
    if FINGERPRINT_TAG in tags:  # the run of a stage, named after it
        yield name, tags[FINGERPRINT_TAG]
    yield from used_in(tags)
    yield from _lineage(tags)
