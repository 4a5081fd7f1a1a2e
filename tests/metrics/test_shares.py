"""Features by several processes: the bits of one."""

import multiprocessing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from genxfer.metrics import METRICS, load_extractor
from genxfer.metrics.features import Pixels
from genxfer.metrics.measure import measure
from genxfer.metrics.sets import FeatureSets
from genxfer.metrics.shares import features_of_all, share
from tests.training.ranks import be_rank, free_port


@pytest.mark.parametrize("n", [1, 7, 16, 17, 100, 1000])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_shares_are_whole_batches_and_make_up_the_whole(n: int, size: int) -> None:
    shares = [share(n, rank, size, 16) for rank in range(size)]
    assert [index for rows in shares for index in range(n)[rows]] == list(range(n))
    assert all(rows.start % 16 == 0 or rows.start == n for rows in shares)
    lengths = [len(range(n)[rows]) for rows in shares]
    assert max(lengths) - min(lengths) <= 16 + 15


def images(n: int, seed: int) -> Tensor:
    return torch.randint(0, 256, (n, 1, 16, 16), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def together(rank: int, size: int, port: int, folder: Path) -> None:
    from genxfer.training.distributed import join

    be_rank(rank, size, port)
    torch.set_num_threads(1)
    world, extractor = join(), load_extractor("lite0")
    sets = {
        name: features_of_all(extractor, images(n, seed), world.rank, world.size, world.gather)
        for seed, (name, n) in enumerate({"real": 70, "fake": 50, "train": 5}.items())
    }
    world.close()
    save_file(sets, folder / f"{rank}.safetensors")


def test_two_processes_have_the_features_and_the_numbers_of_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    port = free_port()
    processes = [context.Process(target=together, args=(rank, 2, port, tmp_path), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    extractor = load_extractor("lite0")
    alone = {
        name: extractor.features(images(n, seed))
        for seed, (name, n) in enumerate({"real": 70, "fake": 50, "train": 5}.items())
    }
    expected = measure(METRICS, FeatureSets(**alone), required=("kid",))
    for rank in range(2):
        found = load_file(tmp_path / f"{rank}.safetensors")
        assert all(torch.equal(found[name], alone[name]) for name in alone)
        assert measure(METRICS, FeatureSets(**found), required=("kid",)) == expected


def test_a_process_alone_gathers_nothing_but_its_own() -> None:
    found = features_of_all(Pixels(), images(30, 0), 0, 1, lambda values: values[None])
    assert torch.equal(found, Pixels().features(images(30, 0)))
