"""The task of the flow `promote`: ask the rule, move the alias, and show why, with samples of both models."""

import base64
from typing import Any

from prefect import State, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from genxfer.config import Params
from genxfer.registry.promotion import Outcome
from genxfer.report.grid import encode_png, grid
from genxfer.stages.promotion import promote_challenger

PICTURE_SCALE = 3


@task(cache_policy=NO_CACHE)
def promote_model(params: Params, name: str | None, dry_run: bool) -> State[dict[str, Any]]:
    """Compare the challenger with the champion; end Completed under the name of what came of it."""
    outcome = promote_challenger(params, name, dry_run)
    rows = [{"asked": check.name, "holds": check.passed, "": check.text} for check in outcome.checks]
    if rows:
        create_table_artifact(key="promotion-rule", table=rows, description="What the rule of promotion asks for.")
    create_markdown_artifact(key="promotion", markdown=promotion_markdown(outcome), description="Who is champion.")
    return Completed(name=outcome.state.capitalize(), message=outcome.reason, data=outcome.to_json())


def promotion_markdown(outcome: Outcome) -> str:
    """Return what was decided and why, and what each model draws from the same seed."""
    tried = " (dry run: nothing was changed)" if outcome.dry_run else ""
    lines = [f"## {outcome.name}: {outcome.state}{tried}", "", outcome.reason, ""]
    lines += [f"- {note}" for note in outcome.notes]
    for version, images in outcome.images.items():
        who = "challenger" if version == outcome.challenger else "champion until now"
        shown = grid(images.transpose(0, 3, 1, 2), columns=len(images), scale=PICTURE_SCALE)
        lines += [f"### version {version}, {who}", "", _inline(version, encode_png(shown)), ""]
    return "\n".join(lines)


def _inline(label: str, png: bytes) -> str:
    return f"![version {label}](data:image/png;base64,{base64.b64encode(png).decode()})"
