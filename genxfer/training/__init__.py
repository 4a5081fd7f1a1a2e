"""Training: batches in, a snapshot out, and nothing lost when it is stopped.

Read `engine.py` first: the loop is one function. Around it stand what it can be told (`config.py`), what the machine
can do (`precision.py`, `device.py`), what a run holds (`state.py`, `adam.py`, `ema.py`, `losses.py`, `adaptive.py`),
how it starts from a source model (`start.py`) and whether that was loaded right (`source_check.py`), which of its
moments is published (`validation.py`, `selection.py`), what it writes (`checkpoint.py` for itself, `snapshot.py` for
others) and says where it cannot (`writing.py`), who is told about it (`tracker.py`, `pace.py`) and how it is stopped
(`interrupt.py`). What several processes can be handed, as data, is a training run (`job.py`) or the features of what
was trained (`feature_job.py`). Knows families only through what every family has, and nothing of stages or the
registry.
"""
