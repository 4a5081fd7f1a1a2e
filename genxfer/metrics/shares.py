"""The features of one set of images, computed by several processes: each takes a share, and all end with the whole.

A share is made of whole batches, so that every batch is the one that a single process would compute: the features, and
all numbers made of them, are the same bits. How processes speak to each other is not known here: a `gather` is handed
in, such as that of `training.distributed.World`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from genxfer.metrics.features import Extractor

# (values [K]) -> [size K]: those of every process, in the order of ranks, on every process.
Gather = Callable[[Tensor], Tensor]

_ROWS = 1024  # features that travel at a time


def share(n: int, rank: int, size: int, batch: int) -> slice:
    """Return which of `n` images are the share of `rank` of `size` processes: a run of whole batches of `batch`.

    The shares follow each other in the order of ranks, and differ by at most one batch; some may be empty.
    """
    batches = -(-n // batch)
    first, last = (batches * one // size for one in (rank, rank + 1))
    return slice(min(first * batch, n), min(last * batch, n))


def features_of_all(extractor: Extractor, images: Tensor, rank: int, size: int, gather: Gather) -> Tensor:
    """Return the features [N D] of `images` [N C H W] on every rank, each having computed its share.

    The same bits as `extractor.features(images)`, at least one image.
    """
    batch = extractor.batch[extractor.device.type]
    lengths = [len(images[share(len(images), other, size, batch)]) for other in range(size)]
    rows = share(len(images), rank, size, batch)
    own = extractor.features(images[rows]) if lengths[rank] else torch.empty(0, 0)
    width = int(gather(torch.tensor([float(own.shape[1])])).max())
    padded = torch.zeros(max(lengths), width)
    padded[: len(own), : own.shape[1]] = own
    parts = [gather(part.flatten()).view(size, len(part), width) for part in padded.split(_ROWS)]
    everything = torch.cat(parts, dim=1)
    return torch.cat([everything[other, :length] for other, length in enumerate(lengths)])
