"""Small training runs in several processes of this machine, over gloo, started from a server that has torch loaded."""

import multiprocessing
import os
import socket
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.training.train_small import packed_images, small_config, small_family, small_validation, validation_images

SERVER = multiprocessing.get_context("forkserver")
# DistributedDataParallel imports torch's compiler when it is made, which takes seconds: once here, not in each process.
SERVER.set_forkserver_preload(["torch", "torch._dynamo", "genxfer.training.engine", "tests.training.train_small"])


@dataclass(frozen=True)
class Group:
    """The processes of one run; each exits with 0 when it has trained to the end."""

    processes: list[BaseProcess]

    def wait(self, timeout_s: float = 120) -> list[int | None]:
        for process in self.processes:
            process.join(timeout_s)
        return [process.exitcode for process in self.processes]

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
        self.wait()


def start(
    name: str,
    size: int,
    folder: Path,
    family_keys: dict[str, Any] | None = None,
    apart: bool = False,
    **keys: Any,
) -> Group:
    """Start `size` ranks that train a small model of family `name` in `folder` together.

    Those that are `apart` take themselves for the only ones of their hosts: they agree over gloo, a step late.
    """
    folder.mkdir(parents=True, exist_ok=True)
    family = small_family(name, **(family_keys or {}))
    packed_images(folder, family)  # by one, before several want to read them
    validation_images(folder, family)
    port = free_port()
    arguments = [(name, rank, size, port, apart, folder, family_keys or {}, keys) for rank in range(size)]
    processes = [SERVER.Process(target=_train, args=own, daemon=True) for own in arguments]
    for process in processes:
        process.start()
    return Group(processes)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def be_rank(rank: int, size: int, port: int, apart: bool = False) -> None:
    """Be, as torchrun would have it, one of `size` ranks on this machine, or the only one of its host."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": "0" if apart else str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": "1" if apart else str(size),
    }


def _train(
    name: str, rank: int, size: int, port: int, apart: bool, folder: Path, family_keys: dict, keys: dict
) -> None:
    from genxfer.training.config import ComputeConfig
    from genxfer.training.distributed import Ranks, join
    from genxfer.training.engine import train
    from genxfer.training.tracker import NullTracker

    be_rank(rank, size, port, apart)
    own = {key: keys.pop(key) for key in ("method", "micro_batch") if key in keys}
    every_s, precision = keys.pop("checkpoint_every_s", 1000.0), keys.pop("precision", "fp32")
    as_on_gpus = keys.pop("norms_as_on_gpus", False)
    family, config = small_family(name, **family_keys), small_config(**keys)
    world = join(leads=rank == 0 or not apart)
    if as_on_gpus and isinstance(world, Ranks):
        world.gather = world.gather_on_device  # type: ignore[method-assign]
    train(
        family,
        packed_images(folder, family),
        config,
        work_dir=folder / "work",
        out_dir=folder / "out",
        tracker=NullTracker(),
        compute=ComputeConfig(threads=1, checkpoint_every_s=every_s, precision=precision),
        world=world,
        validation=small_validation(folder, family, config, world) if config.validate_every_kimg else None,
        **own,
    )
    world.close()
