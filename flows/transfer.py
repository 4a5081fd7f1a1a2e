"""The scenario `transfer`: from two domains of images to a registered model, with proof of what it was worth."""

from typing import Any

from prefect import flow

from flows.begin import begin
from flows.parent import parent_run
from genxfer.config import Params
from genxfer.stages import STAGES, local_context
from tasks.alerts import tell_failure
from tasks.pictures import show_summary
from tasks.stages import baseline, dataset_source, dataset_target, evaluate, finetune, pretrain, register


@flow(name="transfer", on_failure=[tell_failure], on_crashed=[tell_failure])
def transfer(params: Params = Params()) -> dict[str, Any]:  # noqa: B008  the form in the UI shows these defaults
    """Pretrain on the source domain, adapt to the target domain, measure the gain, register the model."""
    params = begin(params)
    with parent_run("transfer") as parent:
        context = local_context(parent.run_id)
        pretrains = STAGES["pretrain"].enabled(params)
        source = [dataset_source(params, context)] if pretrains else []
        target = dataset_target(params, context)
        source_model = [pretrain(params, context, wait_for=source)] if pretrains else []
        transferred = finetune(params, context, wait_for=[target, *source_model])
        models = [*source_model, transferred]
        if params.baseline.enabled:
            models.append(baseline(params, context, wait_for=[target]))
        scores = evaluate(params, context, wait_for=[target, *models])
        registered = register(params, context, wait_for=[transferred, scores])
        parent.report = context.store.read(scores.result().record.outputs["report.html"])
        parent.summary = show_summary([*source, target, *models, scores, registered], params, context.store)
    return parent.summary
