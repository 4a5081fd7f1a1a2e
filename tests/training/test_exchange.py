"""Ranks that speak through memory, here threads of one process on real sockets."""

import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from genxfer.training.exchange import PIECE_BYTES, Exchange

PATIENCE_S = 20.0


class Board:
    """Notes, as a torch.distributed.Store keeps them."""

    def __init__(self) -> None:
        self.notes: dict[str, str] = {}
        self.changed = threading.Condition()

    def set(self, key: str, value: str) -> None:
        with self.changed:
            self.notes[key] = value
            self.changed.notify_all()

    def get(self, key: str) -> bytes:
        with self.changed:
            assert self.changed.wait_for(lambda: key in self.notes, PATIENCE_S)
            return self.notes[key].encode()


def on_ranks(size: int, work: Callable[[Exchange], object]) -> list[object]:
    """Return what `work` returns on each rank."""
    board = Board()

    def rank(number: int) -> object:
        exchange = Exchange(number, size, board, PATIENCE_S)
        try:
            return work(exchange)
        finally:
            exchange.close()

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(rank, range(size)))


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("shape", [(1,), (60,), (2, 3), (2, PIECE_BYTES // 16)])
def test_every_rank_has_what_all_said(size: int, shape: tuple[int, ...]) -> None:
    values = torch.randn(5, size, *shape, dtype=torch.float64)

    def work(exchange: Exchange) -> list[Tensor]:
        # Kept to the end: what is said later must not write over it.
        return [exchange.gather(step[exchange.rank].unbind()) for step in values]

    for answer in on_ranks(size, work):
        assert torch.equal(torch.stack(answer), values)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("count", [1, 60, 2 * PIECE_BYTES // 4 + 1])
def test_every_rank_has_the_same_mean_in_place(size: int, count: int) -> None:
    values = torch.randn(5, size, count)

    def work(exchange: Exchange) -> Tensor:
        means = values[:, exchange.rank].clone()
        for step in means:
            exchange.mean_(step)
        return means

    answers = on_ranks(size, work)
    assert torch.allclose(answers[0], values.mean(dim=1), atol=1e-6)
    assert all(torch.equal(answer, answers[0]) for answer in answers)


def test_layouts_and_types_do_not_matter() -> None:
    values = torch.randn(2, 3, 4, 4).bfloat16().to(memory_format=torch.channels_last)
    for answer in on_ranks(2, lambda exchange: exchange.gather([values])):
        assert torch.equal(answer, torch.stack([values, values])[:, None])


def test_a_rank_that_is_gone_is_noticed() -> None:
    def work(exchange: Exchange) -> str:
        if exchange.rank == 1:
            return "left"
        with pytest.raises(ConnectionError, match="rank 1 is gone"):
            exchange.gather([torch.ones(3)])
        return "noticed"

    assert on_ranks(2, work) == ["noticed", "left"]


def test_a_rank_that_is_late_is_waited_for() -> None:
    late = threading.Event()

    def work(exchange: Exchange) -> Tensor:
        if exchange.rank == 1:
            late.wait(0.1)  # longer than the others look for it
        return exchange.gather([torch.ones(1)])

    assert [answer.tolist() for answer in on_ranks(2, work)] == [[[[1.0]], [[1.0]]]] * 2


def test_a_rank_that_never_answers_is_given_up() -> None:
    done = threading.Event()

    def work(exchange: Exchange) -> str:
        if exchange.rank == 1:
            done.wait(PATIENCE_S)
            return "silent"
        exchange.patience_s = 0.05
        with pytest.raises(ConnectionError, match=r"rank 1 has said nothing for 0.05 s"):
            exchange.gather([torch.ones(3)])
        done.set()
        return "gave up"

    assert on_ranks(2, work) == ["gave up", "silent"]


def test_ranks_meet_where_the_folder_of_temporary_files_has_a_long_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))

    def work(exchange: Exchange) -> Tensor:
        return exchange.gather([torch.tensor([exchange.rank])])

    assert [answer.flatten().tolist() for answer in on_ranks(3, work)] == [[0, 1, 2]] * 3
    assert not list(long.iterdir())
