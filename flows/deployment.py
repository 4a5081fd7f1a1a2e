"""Steps of `prefect deploy`: the form of the UI starts from params.yaml, and a schedule stays on that was turned on."""

from typing import Any

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from genxfer.config import load_params


def read_params(path: str = "params.yaml") -> dict[str, Any]:
    """Return {"params": the checked parameters of the file, as JSON}; raises ParameterError."""
    return {"params": load_params(path).model_dump(mode="json")}


def read_schedule(deployment: str, slug: str) -> dict[str, bool]:
    """Return {"active": whether the server has that schedule turned on}; False where it does not know it yet."""
    with get_client(sync_client=True) as client:
        try:
            schedules = client.read_deployment_by_name(deployment).schedules
        except ObjectNotFound:
            return {"active": False}
    return {"active": any(schedule.active for schedule in schedules if schedule.slug == slug)}
