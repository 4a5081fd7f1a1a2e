"""Transfer learning for image generators: pretrain on many images, adapt to few, measure the gain, register the model.

The rooms, in reading order; each imports only from those below it:

    cli.py         one verb per stage, and run, compare, plan, metrics, ...; `terminal.py` is what it shows
    drawing.py     the verbs for a trained model, without params.yaml: sample, interpolate, export, merge
    stack/         the local stack: Prefect, MLflow, a worker, PostgreSQL and S3 as processes under one supervisor
    stages/        the only place where rooms meet: a function for each stage, and what its result depends on
    planning.py    what would run and how long it should take; what changed since the last run
    pipeline.py    a stage, where it stands, and the one way to run it: look up, else lock, work, publish
    config.py      params.yaml -> frozen `Params`
    registry/      MLflow: runs that are watched while they train, registered versions, pulling them again
    launch/        several processes for one training or evaluation, none of which outlives it
    training/      the engine, in one process or several; its checkpoints, averages, curves and snapshots
    report/        sample grids and the page that people look at
    metrics/       feature extractors, and what is measured with them
    transfer/      the methods: what is taken over of a source model, what moves, what is held near the source
    models/        one file per family: nets, objective, sampling
    data/          raw images -> one packed array; the sampler; augmentation; DVC
    artifacts/     fingerprints and the store
    mistakes.py    every message about a wrong parameter
    checked.py     what all models of parameters have in common
    alerts.py      a message to a webhook, for people who do not look
    errors.py      what can go wrong, as one tree
    leaving.py     how a process ends: in good order and at once
    noise.py       the random numbers of a step, the same however its batch is shared out

Prefect's side is outside: `tasks/` wraps the stages, `flows/` chains the tasks.
"""
