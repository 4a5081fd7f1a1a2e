"""A flow on the full stack: its results on S3, its books in PostgreSQL, which is killed and stopped under it."""

import os
import signal
import subprocess
from collections.abc import Iterator

import boto3
import pytest

from genxfer.stack.credentials import CredentialFiles
from genxfer.stack.postgres import DATABASES, Cluster
from genxfer.stack.settings import load_settings
from tests.stack.conftest import WELL_WITHIN_S, Stack
from tests.stack.operation import ALONE, LONG, Operation
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.service, pytest.mark.timeout(1200)]


@pytest.mark.parametrize(("number", "seed"), [(signal.SIGKILL, 21), (signal.SIGINT, 22)])
def test_postgresql_restarted_under_a_running_flow(full: Stack, number: int, seed: int) -> None:
    """The run ends well or says why it did not; the next one is fine either way, and trains nothing twice."""
    operation = Operation(full)
    run = operation.start(operation.parameters(seed, **LONG))
    operation.until_it_trains()
    before = full.part("postgres")["restarts"]
    os.kill(full.pid("postgres"), number)
    until(lambda: full.part("postgres")["restarts"] > before or None, WELL_WITHIN_S)
    full.until_well()
    ended = operation.end(run)
    assert ended["type"] == "COMPLETED" or ended["message"], ended
    following = operation.start(operation.parameters(seed, **ALONE))
    assert operation.end(following)["type"] == "COMPLETED"
    if ended["type"] == "COMPLETED":
        assert set(operation.tasks(following).values()) == {"Cached"}


def dumps(stack: Stack) -> Iterator[bytes]:
    """Yield all that the databases hold, as text."""
    settings = load_settings(stack.project)
    for database in DATABASES:
        dump = [str(Cluster.of(settings).programs / "pg_dump"), "-h", "127.0.0.1", "-p", str(settings.ports.postgres)]
        variables = {"PGPASSFILE": str(CredentialFiles.of(settings).postgres)}
        yield subprocess.run([*dump, "-U", "genxfer", database], env=variables, capture_output=True, check=True).stdout


def objects(stack: Stack) -> Iterator[bytes]:
    """Yield every object on the stack's S3."""
    _, key_id, secret = stack.secrets()
    url = f"http://127.0.0.1:{stack.base + 3}"
    s3 = boto3.client(
        "s3", endpoint_url=url, aws_access_key_id=key_id, aws_secret_access_key=secret, region_name="us-east-1"
    )
    for bucket in ("genxfer", "mlflow", "dvc"):
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            yield from (s3.get_object(Bucket=bucket, Key=one["Key"])["Body"].read() for one in page.get("Contents", []))


def test_no_credential_is_in_the_books_or_among_the_artifacts(full: Stack) -> None:
    operation = Operation(full)
    assert operation.end(operation.start(operation.parameters(23)))["type"] == "COMPLETED"
    contents = [*dumps(full), *objects(full), *(log.read_bytes() for log in (full.folder / "logs").iterdir())]
    assert any(b"models:/genxfer" in content or b"challenger" in content for content in contents)
    assert len(contents) > 30
    for secret in full.secrets():
        assert not any(secret.encode() in content for content in contents)
