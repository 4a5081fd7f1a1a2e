"""Hooks of the flows that tell somebody when a run ends badly: to the webhook of `genxfer.alerts`, where there is one.

Prefect calls them with these three parameters, in the run's own process; after a run whose process is gone, in the
worker's. A run that somebody cancelled is no news to them.
"""

from typing import Any

from prefect import Flow, State
from prefect.client.schemas.objects import FlowRun
from prefect.utilities.urls import url_for

from genxfer.alerts import send_alert

LINES_TOLD = 5  # of what went wrong; the run's page has all of it


def tell_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Send `failed` or `crashed`: which flow, which run, the first lines of what went wrong, and where to look."""
    event = "crashed" if state.is_crashed() else "failed"
    reason = "\n".join((state.message or "no reason is known").splitlines()[:LINES_TOLD])
    page = url_for("flow-run", flow_run.id) if flow_run.deployment_id else None  # an embedded server has no pages
    text = f"genxfer: the run {flow_run.name} of the flow {flow.name} {event}: {reason}"
    details = {"flow": flow.name, "run": flow_run.name, "run_id": flow_run.id, "state": state.name, "url": page}
    send_alert(event, f"{text}\n{page}" if page else text, details)
