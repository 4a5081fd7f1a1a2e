"""Training: batches in, a snapshot out, and nothing lost when it is stopped.

Read `engine.py` first, which is one run, then `loop.py`: the loop is one function, and a phase's turn in it another
(`turn.py`). Around them stand what a run can be told (`config.py`), what the machine can do (`precision.py`,
`device.py`), what feeds it images (`feed.py`) and noise (`seeds.py`), what it holds (`state.py`, `adam.py`, `ema.py`,
`losses.py`, `adaptive.py`), how it starts from a source model (`start.py`) and whether that was loaded right
(`source_check.py`), whether it is worth going on with (`health.py`), where its samples start from if that is not learnt
(`mixture.py`), which of its moments is published (`validation.py`, `selection.py`), by a score that the check of what
was loaded shares (`score.py`), what it writes (`checkpoint.py` for itself, `snapshot.py` for others, `filmstrip.py` for
people) and says where it cannot (`writing.py`), who is told about it (`tracker.py`, `pace.py`) and how it is stopped
(`interrupt.py`). Processes that train together speak by `distributed.py`, of one machine also by `exchange.py`, and
have one BatchNorm (`shared_norm.py`). What several processes can be handed, as data, is a training run (`job.py`) or
the features of what was trained (`feature_job.py`). Knows families only through what every family has, and nothing of
stages or the registry.
"""
