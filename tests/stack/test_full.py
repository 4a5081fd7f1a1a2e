"""The full stack: PostgreSQL and SeaweedFS behind both servers; who may read what, and what nobody may see."""

import os
import signal
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import psycopg2
import pytest

from tests.conftest import clean_environment
from tests.stack.conftest import WELL_WITHIN_S, Stack
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.service, pytest.mark.timeout(900)]


def environment(stack: Stack) -> dict[str, str]:
    """What `genxfer env` makes of a shell."""
    lines = [line for line in stack.run("env").stdout.splitlines() if line.startswith("export ")]
    return clean_environment(stack.project) | dict(line.removeprefix("export ").split("=", 1) for line in lines)


def python(stack: Stack, code: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=stack.project,
        env=environment(stack) | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def connect(stack: Stack, database: str, password: str) -> "psycopg2.extensions.connection":
    return psycopg2.connect(
        host="127.0.0.1", port=stack.base + 2, user="genxfer", dbname=database, password=password, connect_timeout=10
    )


def query(stack: Stack, database: str, statement: str) -> object:
    with connect(stack, database, stack.secrets()[0]) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0]


def test_all_parts_are_healthy_and_both_servers_keep_their_books_in_postgresql(full: Stack) -> None:
    names = [part["name"] for part in full.status()["parts"]]
    assert names == ["postgres", "s3", "prefect", "mlflow", "deployments", "worker"]
    assert query(full, "prefect", "SELECT count(*) FROM deployment") >= 1
    assert query(full, "mlflow", "SELECT count(*) FROM experiments") >= 1
    assert not list(full.folder.glob("*/*.db"))
    assert full.run("up").returncode == 0  # the stack that is up is meant, --full or not


def test_postgresql_lets_nobody_in_without_the_password(full: Stack) -> None:
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        connect(full, "mlflow", "guessed")


def test_postgresql_does_not_run_as_root(full: Stack) -> None:
    assert psutil.Process(full.pid("postgres")).uids().effective != 0


def test_nothing_listens_elsewhere(full: Stack) -> None:
    listening = full.listening()
    assert {address.port for address in listening} >= {full.base + part for part in range(4)}
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_what_is_logged_to_mlflow_lies_in_s3_and_the_client_has_no_keys(full: Stack) -> None:
    log = """
import mlflow
with mlflow.start_run() as run:
    mlflow.log_text("a picture", "pictures/grid.txt")
print(run.info.run_id)
"""
    no_keys = {"AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_ENDPOINT_URL_S3": ""}
    run = python(full, log, **no_keys).split()[-1]
    address = f"{full.mlflow_url}/get-artifact?path=pictures/grid.txt&run_uuid={run}"
    with urllib.request.urlopen(address, timeout=30) as answer:  # as the page does it
        assert answer.read() == b"a picture"
    look = "import boto3; [print(o['Key']) for o in boto3.client('s3').list_objects_v2(Bucket='mlflow')['Contents']]"
    assert f"{run}/artifacts/pictures/grid.txt" in python(full, look)


def test_s3_refuses_a_wrong_secret(full: Stack) -> None:
    code = """
import boto3, botocore
try:
    boto3.client("s3", aws_access_key_id="guessed", aws_secret_access_key="guessed").list_buckets()
except botocore.exceptions.ClientError as error:
    print(error.response["Error"]["Code"])
"""
    assert python(full, code).split() == ["InvalidAccessKeyId"]


def test_dvc_pushes_to_the_stack_and_pulls_again(full: Stack) -> None:
    def dvc(*arguments: str) -> None:
        command = [sys.executable, "-m", "dvc", *arguments]
        done = subprocess.run(
            command, cwd=full.project, env=clean_environment(full.project), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    data = full.project / "data" / "mine.txt"
    data.write_text("versioned")
    dvc("add", str(data))
    dvc("push", "-r", "stack")
    data.unlink()
    for cached in (full.project / ".dvc/cache").rglob("*"):
        if cached.is_file():
            cached.unlink()
    dvc("pull", "-r", "stack", f"{data}.dvc")
    assert data.read_text() == "versioned"
    ignored = subprocess.run(["git", "check-ignore", "-q", ".dvc/config.local"], cwd=full.project)
    assert ignored.returncode == 0


def test_credentials_are_for_their_owner_alone(full: Stack) -> None:
    files = list((full.folder / "credentials").iterdir())
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert len({file.stat().st_uid for file in files} | {os.geteuid()}) == 1


def test_no_credential_is_on_a_command_line(full: Stack) -> None:
    shown = "\0".join(part for process in full.members() for part in process.cmdline())
    assert str(full.base) in shown
    assert not [secret for secret in full.secrets() if secret in shown]


def test_no_credential_is_in_a_log_or_any_other_file_that_is_read(full: Stack) -> None:
    """Everything in the project but the folder of credentials and the bytes of the databases."""
    own = [full.folder / name for name in ("credentials", "postgres", "s3")]
    files = [path for path in full.project.rglob("*") if path.is_file() and not any(one in path.parents for one in own)]
    assert full.folder / "logs/postgres.log" in files
    assert full.project / ".dvc/config.local" in files
    for secret in full.secrets():
        assert not [path for path in files if secret.encode() in path.read_bytes()]
        assert secret not in full.run("env").stdout


def test_credentials_stay_the_same_and_the_data_too(full: Stack) -> None:
    before = full.secrets(), full.prefect.ask("/deployments/name/transfer/transfer")["id"]
    assert full.run("down").returncode == 0
    assert full.up().returncode == 0
    assert (full.secrets(), full.prefect.ask("/deployments/name/transfer/transfer")["id"]) == before


def test_killed_databases_come_back_and_the_servers_with_them(full: Stack) -> None:
    killed = {name: full.kill(name) for name in ("postgres", "s3")}
    for name in killed:
        until(lambda name=name: full.part(name)["restarts"] or None, WELL_WITHIN_S)
    full.until_well()
    assert full.prefect.ask("/deployments/name/transfer/transfer")
    assert query(full, "mlflow", "SELECT count(*) FROM experiments")


def test_a_supervisor_that_is_killed_leaves_no_database_either(full: Stack) -> None:
    backends = [process for process in full.members() if process.name() == "postgres"]
    assert len(backends) > 5
    os.kill(full.pid("supervisor"), signal.SIGKILL)
    full.until_gone()
    assert not [process for process in backends if process.is_running()]
    assert full.up().returncode == 0


def test_status_says_so_while_a_part_is_missing(full: Stack, tmp_path: Path) -> None:
    server = psutil.Process(full.pid("s3"))
    server.suspend()
    try:
        status = until(lambda: status if not (status := full.status())["healthy"] else None, WELL_WITHIN_S)
    finally:
        server.resume()
    assert status["state"] == "degraded"
    assert {part["name"]: part["state"] for part in status["parts"]}["s3"] == "unhealthy"
    full.until_well()
