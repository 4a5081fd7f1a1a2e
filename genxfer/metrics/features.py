"""Feature extractors: frozen nets that turn images into the features which metrics compare.

Images arrive as uint8 [C H W], gray or RGB, of any size, as one array or one after the other; features leave as
float32 [N D] on the CPU. Always in eval mode, without gradients and in full float32: bf16 moves FID by 2 %, so it is
never used for a reported number. The nets are in files of their own. Knows nothing of metrics, of where images come
from, or of the models that made them.
"""

import hashlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import groupby, islice
from typing import ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genxfer.errors import DataError, GenxferError

T = TypeVar("T")
R = TypeVar("R")

# The images of one pass of the net, in order, those of one size beside each other: uint8 [N C H W] each.
Batch = list[Tensor]


class Extractor(ABC):
    """A frozen map from images to features, and the digest of its weights that every number carries."""

    name: ClassVar[str]
    batch: ClassVar[dict[str, int]]  # images per pass, by kind of device, as measured
    digest: str  # sha256 of the weights
    net: nn.Module | None = None

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)

    @abstractmethod
    def _prepare(self, images: Tensor) -> Tensor:
        """Return float32 `images` [N C H W] in [0, 1] as the net takes them, all of one size."""

    @abstractmethod
    def _features(self, prepared: Tensor) -> Tensor:
        """Return features [N D] of prepared images."""

    def features(self, images: Tensor | Iterable[Tensor], batch: int | None = None) -> Tensor:
        """Return float32 features [N D] of uint8 `images` [N C H W], or of single images [C H W] of any sizes.

        `batch` go through the net at a time. On a processor as many batches as torch has threads are computed side by
        side, each by one thread: the same bits for any number of threads. Raises DataError on other arrays than
        images, and on sizes that the extractor cannot compare, GenxferError when the net is in training mode.
        """
        size = batch or self.batch[self.device.type]
        batches = _split(images, size) if isinstance(images, Tensor) else _group(images, size)
        # TF32 rounds convolutions to ten bits on a GPU, by default: a number must not depend on the device that much.
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        work = partial(self._pass, reduced=torch.is_autocast_enabled(self.device.type))
        with _one_thread_each() as threads, exact:
            parts = list(side_by_side(work, batches, threads if self.device.type == "cpu" else 1))
        if not parts:
            raise DataError(f"Feature extractor {self.name!r} was given no images.")
        if len(sizes := {part.shape[1] for part in parts}) > 1:  # of 'pixels' alone, from one batch to another
            raise DataError(
                f"Feature extractor {self.name!r} compares images pixel by pixel and was given some of "
                f"{' and some of '.join(map(str, sorted(sizes)))} values. Give them one size, or use another extractor."
            )
        return torch.cat(parts)

    @torch.no_grad()  # torch keeps this by thread, and autocast as well
    def _pass(self, batch: Batch, *, reduced: bool) -> Tensor:
        self._check(batch)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=reduced):
            prepared = [self._prepare(images.to(self.device).float() / 255) for images in batch]
            return self._features(torch.cat(prepared)).float().cpu()

    def _check(self, batch: Batch) -> None:
        for images in batch:
            if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
                raise DataError(
                    f"Feature extractor {self.name!r} was given {images.dtype} {list(images.shape)}; it takes uint8 "
                    "images [N C H W] with C of 1 or 3."
                )
        if self.net is not None and any(module.training for module in self.net.modules()):
            raise GenxferError(
                f"The net of feature extractor {self.name!r} is in training mode: its features would depend on the "
                "other images of a batch. Call eval() on it."
            )


def resize(images: Tensor, size_px: int) -> Tensor:
    """Return `images` [N C H W] in [0, 1] as RGB [N 3 size size]: bicubic, with antialiasing where they shrink."""
    resized = F.interpolate(images, (size_px, size_px), mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp(0, 1).expand(-1, 3, -1, -1)  # gray is resized once, not three times


def _split(images: Tensor, size: int) -> Iterator[Batch]:
    return ([part] for part in images.split(size) if len(part))


def _group(images: Iterable[Tensor], size: int) -> Iterator[Batch]:
    iterator = iter(images)
    while chosen := list(islice(iterator, size)):
        yield [torch.stack(list(same)) for _, same in groupby(chosen, key=lambda image: (image.dtype, image.shape))]


@contextmanager
def _one_thread_each() -> Iterator[int]:
    """Let every thread compute alone meanwhile; yield how many there may be."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def side_by_side(work: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Yield the results of `work` in order; items are taken ahead by two for each thread and no further."""
    if threads == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads, "genxfer-features", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        pending: deque[Future[R]] = deque()
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > 2 * threads:
                yield pending.popleft().result()
        for future in pending:
            yield future.result()


class Pixels(Extractor):
    """The flattened pixels themselves, in [0, 1]: no weights, for tests and for sanity; all images of one size."""

    name = "pixels"
    batch: ClassVar[dict[str, int]] = {"cpu": 1024, "cuda": 1024}
    digest = hashlib.sha256(b"pixels").hexdigest()

    def _check(self, batch: Batch) -> None:
        super()._check(batch)
        if len({images.shape[1:] for images in batch}) > 1:
            shapes = sorted({tuple(images.shape[1:]) for images in batch})
            raise DataError(
                f"Feature extractor 'pixels' compares images pixel by pixel and was given sizes {shapes}. Give them "
                "one size, or use another extractor."
            )

    def _prepare(self, images: Tensor) -> Tensor:
        return images

    def _features(self, prepared: Tensor) -> Tensor:
        return prepared.flatten(1)
