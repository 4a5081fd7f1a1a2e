"""The scenario `compare`: several methods and seeds on one target, from one pretraining; the winner is registered."""

from dataclasses import replace
from typing import Any

from prefect import flow

from flows.begin import begin
from flows.parent import parent_run
from genxfer.config import Params, check
from genxfer.stages import STAGES, local_context
from genxfer.stages.comparison import lost_methods, measured_by, ranking_of, save_comparison, variants, winner
from tasks.alerts import tell_failure
from tasks.comparison import show_comparison
from tasks.side_by_side import for_each
from tasks.stages import baseline, dataset_source, dataset_target, evaluate, finetune, pretrain, register


@flow(name="compare", on_failure=[tell_failure], on_crashed=[tell_failure])
def compare(params: Params = Params()) -> dict[str, Any]:  # noqa: B008  the form in the UI shows these defaults
    """Fine-tune with every method and seed asked for, rank them on the validation images, register the best."""
    params = begin(params)
    runs = variants(params)
    for run in runs:
        check(run.params)
    with parent_run("compare") as parent:
        context = local_context(parent.run_id)
        pretrains = STAGES["pretrain"].enabled(params)
        source = [dataset_source(params, context)] if pretrains else []
        target = dataset_target(params, context)
        if pretrains:
            pretrain(params, context, wait_for=source)
        apart = replace(context, export_root=None)  # only the winner's results are laid out
        trained = for_each(finetune, runs, apart, params.compare.at_once)
        if params.baseline.enabled:
            one_of_each_seed = {run.seed: run for run in trained}
            for_each(baseline, list(one_of_each_seed.values()), apart, params.compare.at_once)
        scored = for_each(evaluate, list(trained), apart, params.compare.at_once)
        ranking = ranking_of(runs, trained, scored, context)
        measured, lost = measured_by(scored), lost_methods(runs, scored)
        page = save_comparison(ranking, params, target.result(), context, measured=measured, lost=lost)
        best = winner(ranking, list(scored)).params
        stages = [finetune, baseline, evaluate, register] if best.baseline.enabled else [finetune, evaluate, register]
        registered = [stage(best, context) for stage in stages][-1]
        parent.used = [*trained.values(), *scored.values(), target.result(), registered.result()]
        parent.summary = show_comparison(ranking, page, registered.result(), best, measured=measured, lost=lost)
    return parent.summary
