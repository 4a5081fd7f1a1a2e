"""What people see of a comparison in the Prefect UI: the ranking as a table and as a figure, and where its page is."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from genxfer.config import Params
from genxfer.pipeline import StageResult
from genxfer.registry.models import find_version
from genxfer.report.comparison import Contender, headline, say_failed, say_order
from genxfer.report.comparison_page import say_measured, table


def show_comparison(
    ranking: Sequence[Contender],
    page: Path,
    registered: StageResult,
    params: Params,
    *,
    measured: Mapping[str, Any],
    lost: Sequence[str],
) -> dict[str, Any]:
    """Return the summary of a comparison, and attach it to the flow run as artifacts.

    `measured` is what all numbers depend on, `lost` are the methods of which every seed failed.
    """
    rows = table(ranking)
    said = [say_order(ranking, measured["n_validation"]), say_failed(ranking, lost), say_measured(measured)]
    notes = " ".join(filter(None, said))
    create_table_artifact(key="ranking", table=rows, description=f"{headline(ranking)} {notes}")
    figure = base64.b64encode(page.with_suffix(".png").read_bytes()).decode()
    page = page.absolute()
    markdown = f"## {headline(ranking)}\n\n![ranking](data:image/png;base64,{figure})\n\n{notes}\n\nPage: `{page}`\n"
    create_markdown_artifact(key="comparison", markdown=markdown, description="Which method is best on this target.")
    model = find_version(params.registration.name, registered.fingerprint)
    return {
        "headline": headline(ranking),
        "ranking": rows,
        "metrics": {f"kid_{contender.method}": contender.kid for contender in ranking},
        "model": None if model is None else {"name": model.name, "version": model.version, "uri": model.uri},
        "report": str(page),
    }
