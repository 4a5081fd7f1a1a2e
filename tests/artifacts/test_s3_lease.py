"""The lease that stands for a lock on S3, against a real server."""

import json
import logging
import threading
from dataclasses import asdict, replace
from typing import Any

import pytest

from genxfer.artifacts.s3_client import Bucket, Content
from genxfer.artifacts.s3_lease import Holder, holder_of, leased
from tests.artifacts.stores import FP, opened
from tests.waiting import until

pytestmark = pytest.mark.service

KEY = "locks/pretrain/f.json"
LIMIT_S = 60
OTHER = Holder("elsewhere", 4711, "another token", 0, 60.0)


@pytest.fixture
def bucket(s3) -> Bucket:
    return Bucket(s3.location)


def as_content(holder: Holder, age_s: float) -> Content:
    return Content(json.dumps(asdict(holder)).encode(), '"etag"', age_s)


def test_a_lease_lives_as_long_as_its_holder_promised_by_the_age_that_the_server_tells():
    assert holder_of(as_content(OTHER, 59)) == OTHER
    assert holder_of(as_content(OTHER, 62)) is None
    assert holder_of(as_content(replace(OTHER, lease_s=100.0), 62)) is not None
    assert holder_of(Content(b"{", '"etag"', 3)) is not None
    assert holder_of(Content(b"{", '"etag"', 300)) is None


def test_who_waits_is_told_for_whom_once_and_holds_when_the_other_lets_go(s3, caplog):
    caplog.set_level(logging.INFO, "genxfer.artifacts")
    waits: list[None] = []
    held = threading.Event()

    def wait() -> None:
        with s3.open().lock("pretrain", FP, on_wait=lambda: waits.append(None)):
            held.set()

    with s3.open().lock("pretrain", FP):
        waiter = threading.Thread(target=wait)
        waiter.start()
        until(lambda: bool(waits), LIMIT_S)
        assert ("pretrain", FP) in s3.open().held()
        assert not held.is_set()
    assert held.wait(LIMIT_S)
    waiter.join()
    assert waits == [None]
    assert [record.message.startswith(f"pretrain {FP[:12]} is being made by pid ") for record in caplog.records] == [
        True
    ]
    assert ("pretrain", FP) not in s3.open().held()
    assert s3.listed() == []


def test_of_two_processes_on_one_machine_the_second_waits_once_for_lock_and_lease(s3):
    host = s3.arguments()
    waits: list[None] = []

    def wait() -> None:
        with opened(*host).lock("pretrain", FP, on_wait=lambda: waits.append(None)):
            pass

    with opened(*host).lock("pretrain", FP):
        waiter = threading.Thread(target=wait)
        waiter.start()
        until(lambda: bool(waits), LIMIT_S)
    waiter.join()
    assert waits == [None]


def test_two_processes_on_one_machine_never_share_work_not_even_when_the_lease_was_lost(s3):
    machine = s3.arguments()
    waited = threading.Event()

    def wait() -> None:
        with opened(*machine).lock("pretrain", FP, on_wait=waited.set):
            pass

    with opened(*machine, lease_s=600).lock("pretrain", FP):
        s3.remove(f"locks/pretrain/{FP}.json")
        with s3.open().lock("pretrain", FP, on_wait=lambda: pytest.fail("another host waited")):
            pass
        waiter = threading.Thread(target=wait)
        waiter.start()
        assert waited.wait(LIMIT_S)
    waiter.join()


@pytest.mark.slow
def test_a_renewed_lease_is_not_taken_over_however_long_it_lasts(bucket):
    with leased(bucket, KEY, lease_s=3):
        etag = bucket.get(KEY).etag
        taken = threading.Event()

        def take() -> None:
            with leased(bucket, KEY, lease_s=3):
                taken.set()

        taker = threading.Thread(target=take)
        taker.start()
        until(
            lambda: json.loads(bucket.get(KEY).data)["renewals"] >= 5, LIMIT_S
        )  # of which three would do for its length
        assert not taken.is_set()
        assert bucket.get(KEY).etag != etag  # who saw the old one, and thinks it has expired, can take nothing over
    assert taken.wait(LIMIT_S)
    taker.join()


def test_of_many_who_want_an_expired_lease_one_at_a_time_holds_it(bucket):
    bucket.put(KEY, json.dumps(asdict(replace(OTHER, lease_s=0.0))).encode(), replaces=None)
    until(lambda: holder_of(bucket.get(KEY)) is None, LIMIT_S)
    inside, most, turns = [0], [0], []
    guard = threading.Lock()

    def take(number: int) -> None:
        with leased(bucket, KEY, lease_s=10):
            with guard:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            turns.append(number)
            with guard:
                inside[0] -= 1

    threads = [threading.Thread(target=take, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(turns) == list(range(6))
    assert most == [1]


def test_a_holder_whose_lease_another_has_taken_finds_out_and_leaves_it_alone(bucket, caplog):
    with leased(bucket, KEY, lease_s=0.5) as lease:
        current = bucket.get(KEY)
        data = json.dumps(asdict(OTHER)).encode()
        while bucket.put(KEY, data, replaces=current.etag) is None:  # renewed this very moment
            current = bucket.get(KEY)
        until(lambda: lease.lost, LIMIT_S)
    assert "is another's now" in caplog.text
    assert json.loads(bucket.get(KEY).data)["token"] == OTHER.token


def test_a_lease_that_somebody_removed_is_put_back(bucket):
    with leased(bucket, KEY, lease_s=0.5) as lease:
        token = json.loads(bucket.get(KEY).data)["token"]
        bucket.delete(KEY)
        until(lambda: bucket.get(KEY) is not None, LIMIT_S)
        assert json.loads(bucket.get(KEY).data)["token"] == token
        assert not lease.lost


def test_a_renewal_whose_answer_was_lost_is_recognised(bucket, caplog):
    with leased(bucket, KEY, lease_s=0.5) as lease:
        renewals = json.loads(bucket.get(KEY).data)["renewals"]
        lease._etag = '"not the last one"'
        until(lambda: json.loads(bucket.get(KEY).data)["renewals"] > renewals + 2, LIMIT_S)
        assert not lease.lost
    assert bucket.get(KEY) is None


def test_a_put_whose_answer_was_lost_is_not_taken_for_anothers_lease(bucket, caplog, monkeypatch):
    put = Bucket.put
    lost: list[str | None] = []

    def lose(self: Bucket, *arguments: Any, **options: Any) -> str | None:
        written = put(self, *arguments, **options)
        if lost:
            return written
        return lost.append(written)

    monkeypatch.setattr(Bucket, "put", lose)
    with leased(bucket, KEY, on_wait=lambda holder: pytest.fail(f"waited for {holder}")):
        assert lost[0] is not None
    assert not caplog.records


def test_a_lock_can_be_taken_again_after_an_error_under_it(s3):
    with pytest.raises(OSError, match="the stage's own"), s3.open().lock("pretrain", FP):
        raise OSError("the stage's own")
    with s3.open().lock("pretrain", FP, on_wait=lambda: pytest.fail("waited")):
        pass
