"""A real S3 server for tests: SeaweedFS in one process, on free ports of 127.0.0.1; it can be killed and come back."""

import ctypes
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

KEY, SECRET = "genxfer-tests", "a-secret-that-nobody-may-see"
READER_KEY, READER_SECRET = "genxfer-reader", "another-secret-that-nobody-may-see"
IDENTITIES = {
    "identities": [
        {"name": "tests", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]},
        {
            "name": "reader",
            "credentials": [{"accessKey": READER_KEY, "secretKey": READER_SECRET}],
            "actions": ["Read:bucket", "List:bucket"],
        },
    ]
}
START_LIMIT_S = 120
HELPERS = ("master", "volume", "filer", "admin")
GRPC_OFFSET = 10_000  # what SeaweedFS adds to each of its ports for gRPC


class Seaweed:
    """One server and its folder; `environment` is what a client needs."""

    def __init__(self, folder: Path, data: Path | None = None) -> None:
        self._folder = folder
        self._data = data or folder / "data"
        self._ports = free_ports(1 + len(HELPERS))
        self._process: subprocess.Popen[bytes] | None = None
        # The server dies with the thread that starts it, so this one lives as long as the tests do.
        self._starter = ThreadPoolExecutor(1)
        self.port = self._ports[0]
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def start(self) -> "Seaweed":
        self._data.mkdir(parents=True, exist_ok=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        identities = self._folder / "identities.json"
        identities.write_text(json.dumps(IDENTITIES))
        helpers = [f"-{name}.port={port}" for name, port in zip(HELPERS, self._ports[1:], strict=True)]
        with (self._folder / "log").open("ab") as log:
            self._process = self._starter.submit(
                subprocess.Popen,
                [
                    Path(sys.executable).with_name("weed"),
                    *("-logtostderr", "mini", f"-dir={self._data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
                    *(f"-s3.port={self.port}", *helpers, "-webdav=false", "-admin.ui=false", "-master.telemetry=false"),
                    *("-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false"),
                    f"-s3.config={identities}",
                ],
                env={name: value for name, value in os.environ.items() if not name.startswith("AWS")},
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            ).result()
        self._wait()
        return self

    def kill(self) -> None:
        """End the server as a power cut would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    @property
    def environment(self) -> dict[str, str]:
        return environment_for(self.endpoint)

    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=30),
        )

    def _wait(self) -> None:
        """Return once an object can be written: the volumes come later than the port."""
        client, deadline = self.client(), time.monotonic() + START_LIMIT_S
        while True:
            try:
                if "probe" not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
                    client.create_bucket(Bucket="probe")
                client.put_object(Bucket="probe", Key="probe", Body=b"probe")
                return
            except (BotoCoreError, ClientError):
                assert self._process is not None
                assert self._process.poll() is None, (self._folder / "log").read_text()[-3000:]
                assert time.monotonic() < deadline, (self._folder / "log").read_text()[-3000:]
                time.sleep(0.1)


def environment_for(endpoint: str) -> dict[str, str]:
    """Return what leads a client to the server, and nothing of the developer's own AWS set-up."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def free_ports(count: int) -> list[int]:
    """Return ports that are free, and whose partners for gRPC are free: below those that the system gives away."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(12_000, 20_000)
        if port not in ports and _is_free(port) and _is_free(port + GRPC_OFFSET):
            ports.append(port)
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no server outlives the tests, however these end
