"""The report: grids of images, curves, and the page that people look at, all made from plain arrays and numbers.

`grid.py` lays images out and encodes them, `curves.py` draws training curves, `verdict.py` says in words what the
numbers allow to say, and `page.py` puts all of it on one self-contained HTML page. The room knows nothing of models,
training, the store or the pipeline, computes no metric, and needs no torch.
"""
