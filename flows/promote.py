"""The scenario `promote`: the challenger becomes the champion, if the rule says so."""

from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from flows.begin import connect
from genxfer.config import Params
from tasks.alerts import tell_failure
from tasks.promotion import promote_model


@flow(name="promote", on_failure=[tell_failure], on_crashed=[tell_failure])
def promote(
    params: Params = Params(),  # noqa: B008  the form in the UI shows these defaults
    name: Annotated[str | None, Field(description="The registered model; empty: register.name.")] = None,
    dry_run: Annotated[bool, Field(description="Only say what would be done.")] = False,
) -> dict[str, Any]:
    """Replace the champion by the challenger when that is better, copies nothing and loads."""
    connect()
    outcome: dict[str, Any] = promote_model(params, name, dry_run).result()
    return outcome
