"""The images: raw files of a domain in, one packed uint8 array and a manifest out, batches of tensors to the engine.

In reading order: `config.py` (what a domain can be), `raw.py` (what is there, without decoding it), `split.py` (which
images train, validate and test), `sources.py` (open a folder, an archive, a package or a torchvision data set),
`prepare.py` (one image to one square), `duplicates.py` (which images show the same), `parts.py` (the target's images
to its parts), `doctor.py` (what looks wrong), `pack.py` (all of it to train.npy, validation.npy, test.npy,
manifest.json), `shared.py` (what the source has of what is held out), `export.py` (the demo's target images as PNG
files), `versions.py` (DVC), `dataset.py` (a batch), `augment.py` (DiffAugment). The first three and `export.py` read
no torch, no Pillow and no data package, since a cached run must answer in a second. This room knows nothing of models,
training, the store or the pipeline.
"""
