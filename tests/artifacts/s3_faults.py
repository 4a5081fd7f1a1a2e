"""What can fail about a store on S3: each fault does its harm in a scene, checks that nothing is lost or wrong, and
returns its outcome as docs/s3.md says it. The first line of its docstring is how the page names it.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.artifacts.s3_scene import LARGE_BYTES, Scene
from tests.artifacts.stores import FILES, FP, object_key, opened, publish, write_files
from tests.proxy import Proxy
from tests.seaweed import READER_KEY, READER_SECRET, Seaweed
from tests.waiting import until

HALF_BYTES = LARGE_BYTES // 2
LIMIT_S = 120
MADE_AGAIN = "success after a warning that it must run again: the next run makes it anew"


def restarted(server: Seaweed) -> Callable[[], None]:
    def restart() -> None:
        server.kill()
        server.start()

    return restart


def server_killed_during_upload(scene: Scene) -> str:
    """The server is killed (-9) during an upload, and restarted."""
    with Proxy(scene.server.port, sent=HALF_BYTES, then=restarted(scene.server)) as proxy:
        record = publish(scene.through(proxy.endpoint), scene.large())
    assert proxy.fired
    assert "trying again" in scene.caplog.text
    assert scene.is_whole(record, scene.large())
    return "success: the upload waits for the server and goes on"


def server_killed_during_download(scene: Scene) -> str:
    """The server is killed (-9) during a download, and restarted."""
    record = publish(scene.through(scene.server.endpoint), scene.large())
    with Proxy(scene.server.port, received=HALF_BYTES, then=restarted(scene.server)) as proxy:
        path = scene.through(proxy.endpoint).read(record.outputs["large.npy"])
    assert proxy.fired
    assert path.read_bytes() == (scene.large() / "large.npy").read_bytes()
    return "success: the download waits for the server and goes on"


def server_gone(scene: Scene) -> str:
    """The server goes away during an upload and stays away."""
    work = scene.kind.open().work_dir("pretrain", FP)
    with Proxy(scene.server.port, sent=HALF_BYTES, then=scene.server.kill) as proxy:
        outcome = scene.refused(lambda: publish(scene.through(proxy.endpoint, attempts=2), scene.large()))
    scene.server.start()
    assert work.is_dir()
    store = scene.through(scene.server.endpoint)
    assert store.find("pretrain", FP) is None
    assert scene.is_whole(publish(store, scene.large()), scene.large())
    return outcome


def server_gone_under_a_lock(scene: Scene) -> str:
    """The server goes away while a stage works under its lock, and comes back."""
    store = scene.through(scene.server.endpoint)
    with store.lock("pretrain", FP):
        scene.server.kill()
        until(lambda: "could not be renewed" in scene.caplog.text, LIMIT_S)
        scene.server.start()
        key = f"locks/pretrain/{FP}.json"
        renewals = json.loads(scene.kind.get(key))["renewals"]
        until(lambda: json.loads(scene.kind.get(key))["renewals"] > renewals, LIMIT_S)
        record = publish(store, scene.small())
    assert "is another's now" not in scene.caplog.text
    assert scene.is_whole(record, scene.small())
    return "success: the lease is renewed as soon as the server answers"


PUBLISHER = """
import json, sys
from pathlib import Path
from tests.artifacts.stores import opened, publish
store = opened(*json.loads(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
print(publish(store, Path(sys.argv[2]), seconds=float(sys.argv[3])).seconds, flush=True)
"""


def start_publisher(scene: Scene, out_dir: Path, seconds: float = 1.0) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", PUBLISHER, json.dumps(scene.kind.arguments()), str(out_dir), str(seconds)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def client_killed_during_upload(scene: Scene) -> str:
    """The run is killed (-9) during an upload, and started again."""
    victims: list[subprocess.Popen[str]] = []
    with Proxy(scene.server.port, sent=HALF_BYTES, then=lambda: victims[0].kill()) as proxy:
        scene.monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        victims.append(start_publisher(scene, scene.large()))
        victims[0].communicate("\n")
    assert victims[0].returncode == -signal.SIGKILL
    store = scene.through(scene.server.endpoint)
    assert store.find("pretrain", FP) is None
    assert "must run again" not in scene.caplog.text  # a plain miss, and nothing wrong with it
    assert scene.is_whole(publish(store, scene.large()), scene.large())
    assert store.bucket.end_lonely_uploads("objects", older_than_s=-1) >= 1
    return "success: nothing is half-published; the next run publishes, and parts left behind go after a day"


HOLDER = f"""
import json, sys, time
from tests.artifacts.stores import opened
with opened(*json.loads(sys.argv[1])).lock("pretrain", "{FP}"):
    print("held", flush=True)
    time.sleep(600)
"""


def holder_killed(scene: Scene) -> str:
    """The holder of a lock is killed (-9) on another host."""
    command = [sys.executable, "-c", HOLDER, json.dumps(scene.kind.arguments())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.kill()
    waits: list[None] = []
    with scene.kind.open().lock("pretrain", FP, on_wait=lambda: waits.append(None)):
        pass
    assert waits == [None]
    assert "was taken over: its holder is gone" in scene.caplog.text
    return "success: its lease expires after 30 s, by the server's clock, and the next goes on"


def two_writers(scene: Scene) -> str:
    """Two hosts publish the same fingerprint at once."""
    folders = [write_files(scene.folder / str(n), {"out": b"%d" % n * 3_000_000}) for n in (1, 2)]
    writers = [start_publisher(scene, folder, n + 1) for n, folder in enumerate(folders)]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    answers = [float(writer.communicate()[0]) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert answers[0] == answers[1]
    record = scene.kind.open().find("pretrain", FP)
    assert record is not None
    assert record.seconds == answers[0]
    assert scene.is_whole(record, folders[int(record.seconds) - 1])
    return "success: one record wins, and the other host adopts it"


def half_an_object(scene: Scene) -> str:
    """An object is truncated on the server."""
    ref = publish(scene.kind.open(), scene.small()).outputs["snapshot.safetensors"]
    scene.kind.write(object_key(ref), b"weights" * 500)
    store = scene.kind.open()
    assert store.find("pretrain", FP) is None
    assert "has 3500 bytes instead of 7000" in scene.caplog.text
    assert scene.is_whole(publish(store, scene.small()), scene.small())
    return MADE_AGAIN


def corrupt_object(scene: Scene) -> str:
    """An object's content is another on the server, of the same size."""
    ref = publish(scene.kind.open(), scene.small()).outputs["snapshot.safetensors"]
    scene.kind.write(object_key(ref), b"Weights" * 1000)
    store = scene.kind.open()
    outcome = scene.refused(lambda: store.read(ref))
    assert store.find("pretrain", FP) is None
    assert scene.is_whole(publish(store, scene.small()), scene.small())
    return outcome


def lost_object(scene: Scene) -> str:
    """An object is deleted on the server."""
    ref = publish(scene.kind.open(), scene.small()).outputs["snapshot.safetensors"]
    scene.kind.remove(object_key(ref))
    store = scene.kind.open()
    assert store.find("pretrain", FP) is None
    assert "is gone from the store" in scene.caplog.text
    assert scene.is_whole(publish(store, scene.small()), scene.small())
    return MADE_AGAIN


def torn_record(scene: Scene) -> str:
    """A record is cut short on the server."""
    publish(scene.kind.open(), scene.small())
    key = f"records/pretrain/{FP}.json"
    scene.kind.write(key, scene.kind.get(key)[:100])
    store = scene.kind.open()
    assert store.find("pretrain", FP) is None
    assert "is damaged" in scene.caplog.text
    assert scene.is_whole(publish(store, scene.small()), scene.small())
    return MADE_AGAIN


def damaged_cache(scene: Scene) -> str:
    """A file of the local cache is damaged."""
    store = scene.kind.open()
    ref = publish(store, scene.small()).outputs["snapshot.safetensors"]
    path = store.read(ref)
    path.chmod(0o644)
    path.write_bytes(b"Weights" * 1000)
    assert store.read(ref).read_bytes() == FILES["snapshot.safetensors"]
    assert "is damaged: it is fetched again" in scene.caplog.text
    return "success after a warning: it is fetched again"


def on_a_full_disk(scene: Scene, action: Callable[[Any], object]) -> str:
    """Return what `action` ends in when the cache lies on a disk with a megabyte of room."""
    folder, words = scene.request.getfixturevalue("small_disk")
    outcome = scene.refused(lambda: action(opened(scene.kind.location, str(folder))))
    assert words in outcome
    # Who is not root cannot mount a small disk, and a limit on files has other words.
    return re.sub(r"File too large \(.*?\)\.", NO_ROOM, outcome)


NO_ROOM = "No space is left on the disk of .genxfer/cache: free some, or set GENXFER_CACHE to a folder with room."


def disk_full_while_publishing(scene: Scene) -> str:
    """The local disk is full while a stage publishes."""
    large = write_files(scene.folder / "out", {"large.npy": b""})
    os.truncate(large / "large.npy", 2 << 20)
    outcome = on_a_full_disk(scene, lambda store: publish(store, large))
    assert scene.kind.contents() == {}
    return outcome


def disk_full_while_reading(scene: Scene) -> str:
    """The local disk is full while an object is fetched."""
    large = write_files(scene.folder / "out", {"large.npy": os.urandom(2 << 20)})
    record = publish(scene.kind.open(), large)
    outcome = on_a_full_disk(scene, lambda store: store.read(record.outputs["large.npy"]))
    assert scene.is_whole(record, large)
    return outcome


def server_disk_full(scene: Scene) -> str:
    """The server's disk is full, and then has room again."""
    disk: Path = scene.request.getfixturevalue("server_disk")
    before = publish(scene.kind.open(), write_files(scene.folder / "before", {"a": b"before"}), seconds=1.0)
    filler, status = disk / "filler", os.statvfs(disk)
    descriptor = os.open(filler, os.O_CREAT | os.O_WRONLY)
    os.posix_fallocate(descriptor, 0, status.f_bavail * status.f_frsize - (4 << 20))
    store = scene.through(scene.server.endpoint, attempts=2)
    outcome = scene.refused(lambda: publish(store, scene.large(), replaces=before))
    assert scene.kind.open().find("pretrain", FP) == before
    os.ftruncate(descriptor, 0)
    os.close(descriptor)
    scene.monkeypatch.delenv("AWS_MAX_ATTEMPTS")
    record = publish(scene.kind.open(), scene.large(), replaces=before)
    assert scene.is_whole(record, scene.large())
    return outcome


def latency(scene: Scene) -> str:
    """Each answer takes 200 ms longer."""
    with Proxy(scene.server.port, round_trip_s=0.2) as proxy:
        record = publish(scene.through(proxy.endpoint), scene.large())
        store = scene.through(proxy.endpoint)
        assert store.find("pretrain", FP) == record
        assert store.read(record.outputs["large.npy"]).stat().st_size == LARGE_BYTES
        with store.lock("pretrain", FP):
            pass
    assert scene.is_whole(record, scene.large())
    return "success"


def throttled_for_a_while(scene: Scene) -> str:
    """The server answers 503 SlowDown for a while."""
    with Proxy(scene.server.port, busy=4) as proxy:
        record = publish(scene.through(proxy.endpoint), scene.small())
        assert proxy.busy_answers == 4
    assert "status 503): trying again" in scene.caplog.text
    assert scene.is_whole(record, scene.small())
    return "success after growing pauses, which are said aloud"


def throttled_for_good(scene: Scene) -> str:
    """The server answers 503 SlowDown for good."""
    with Proxy(scene.server.port, busy=float("inf")) as proxy:
        outcome = scene.refused(lambda: publish(scene.through(proxy.endpoint, attempts=3), scene.small()))
    assert scene.kind.contents() == {}
    return outcome


def read_only(scene: Scene) -> str:
    """The credentials may read and not write."""
    record = publish(scene.kind.open(), scene.small())
    scene.monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER_KEY)
    scene.monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READER_SECRET)
    assert scene.is_whole(record, scene.small())
    other = write_files(scene.folder / "other", {"other.json": b"{}"})
    outcome = scene.refused(lambda: publish(scene.kind.open(), other, replaces=record))
    assert scene.kind.open().find("pretrain", FP) == record
    return outcome


# The mistakes of a user that a first look finds out: what the environment is set to instead, None for not at all.
MISTAKES: dict[str, dict[str, str | None]] = {
    "The secret key is wrong.": {"AWS_SECRET_ACCESS_KEY": "not-the-secret"},
    "The access key is unknown.": {"AWS_ACCESS_KEY_ID": "nobody"},
    "There are no credentials.": {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
    "The profile does not exist.": {"AWS_PROFILE": "nobody"},
    "The bucket does not exist.": {"GENXFER_STORE": "s3://missing-bucket/prefix"},
    "The endpoint cannot be reached.": {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "2"},
}

OWN_SERVER = (server_killed_during_upload, server_killed_during_download, server_gone, server_gone_under_a_lock)
FAULTS = (
    *OWN_SERVER,
    client_killed_during_upload,
    holder_killed,
    two_writers,
    half_an_object,
    corrupt_object,
    lost_object,
    torn_record,
    damaged_cache,
    disk_full_while_publishing,
    disk_full_while_reading,
    server_disk_full,
    latency,
    throttled_for_a_while,
    throttled_for_good,
    read_only,
)


def title_of(fault: Callable[[Scene], str]) -> str:
    assert fault.__doc__ is not None
    return fault.__doc__.splitlines()[0]


TITLES = [*map(title_of, FAULTS), *MISTAKES]
