"""What the trainings behind a result were, as its page and its model card both say it."""

from genxfer.pipeline import Job
from genxfer.report.evaluation import Published
from genxfer.training.config import SCORE_EXTRACTOR


def budgets(job: Job, *stages: str) -> dict[str, str]:
    """Return the budget of each training among `stages` that `job` builds on."""
    trainings = {
        "pretrain": job.params.pretraining(),
        "finetune": job.params.finetuning(),
        "baseline": job.params.baseline_training(),
    }
    return {
        stage: f"{train.kimg:g} kimg in batches of {train.batch}, learning rate {train.lr:g}, seed {train.seed}"
        for stage, train in trainings.items()
        if stage in stages and stage in job.upstream
    }


def published(job: Job) -> Published:
    """Return which moment of the fine-tuning was published, and how its score stands to the last one's."""
    facts = job.upstream["finetune"].facts
    return Published(
        facts["best_kimg"],
        facts["best_validation_kid"],
        facts["images_seen"] / 1000,
        facts["final_validation_kid"],
        SCORE_EXTRACTOR,
    )
