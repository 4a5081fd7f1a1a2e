"""The families: for each kind of generative model one file with its nets, its objective's phases and its sampling.

The two autoencoders share the last two (`autoencoder.py`).

`config.py` says what a family can be told and needs no torch; `family.py` is what the engine may rely on. A family
knows images as tensors in [-1, 1] and nothing of files, datasets, optimizers or the pipeline, and no other family.
"""
