"""Sums over ranks, here threads of one process on real sockets."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

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
@pytest.mark.parametrize("count", [1, 60, PIECE_BYTES // 4 + 1])
def test_every_rank_has_the_same_sum(size: int, count: int) -> None:
    values = torch.randn(5, size, count, dtype=torch.float64)

    def work(exchange: Exchange) -> list[Tensor]:
        return [exchange.total(step[exchange.rank]) for step in values]

    answers = on_ranks(size, work)
    for answer in answers:
        for total, step in zip(answer, values, strict=True):
            assert torch.allclose(total, step.sum(dim=0))
            assert total.shape == (count,)
    assert all(torch.equal(torch.stack(answer), torch.stack(answers[0])) for answer in answers)


def test_a_mean_takes_the_place_of_what_it_is_of() -> None:
    def work(exchange: Exchange) -> Tensor:
        values = torch.tensor([1.0, 2.0]) * (exchange.rank + 1)
        exchange.sum_(values, divisor=2)
        return values

    for mean in on_ranks(2, work):
        assert torch.equal(mean, torch.tensor([1.5, 3.0]))


def test_bfloat16_and_layouts_are_kept() -> None:
    values = torch.randn(2, 3, 4, 4).bfloat16().to(memory_format=torch.channels_last)
    for total in on_ranks(2, lambda exchange: exchange.total(values.permute(0, 2, 3, 1).float())):
        assert torch.equal(total, values.permute(0, 2, 3, 1).float() * 2)


def test_a_rank_that_is_gone_is_noticed() -> None:
    def work(exchange: Exchange) -> str:
        if exchange.rank == 1:
            return "left"
        with pytest.raises(ConnectionError, match="rank 1 is gone"):
            exchange.total(torch.ones(3))
        return "noticed"

    assert on_ranks(2, work) == ["noticed", "left"]


def test_a_rank_that_is_late_is_waited_for() -> None:
    late = threading.Event()

    def work(exchange: Exchange) -> Tensor:
        if exchange.rank == 1:
            late.wait(0.1)  # longer than the others look for it
        return exchange.total(torch.ones(1))

    assert on_ranks(2, work) == [torch.tensor([2.0]), torch.tensor([2.0])]


def test_a_rank_that_never_answers_is_given_up() -> None:
    done = threading.Event()

    def work(exchange: Exchange) -> str:
        if exchange.rank == 1:
            done.wait(PATIENCE_S)
            return "silent"
        exchange.patience_s = 0.05
        with pytest.raises(ConnectionError, match=r"rank 1 has said nothing for 0.05 s"):
            exchange.total(torch.ones(3))
        done.set()
        return "gave up"

    assert on_ranks(2, work) == ["gave up", "silent"]
