"""compose.yaml brought up on this machine: every command, health check and volume of it, with all the real servers."""

import base64
import json
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.infra.compose import compose, filled_in
from tests.infra.containers import Container, Network, network
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.service, pytest.mark.timeout(1500)]

WELL_WITHIN_S = 420  # a busy machine; creating Prefect's and MLflow's tables included
RUN_WITHIN_S = 900  # a busy machine
BUCKETS_WITHIN_S = 60  # SeaweedFS makes them after it says that it is well
POSTGRES = Path("/usr/lib/postgresql")

ASK = """
import sys, urllib.request, urllib.error
url, authorization, body, method = sys.argv[1:]
headers = {"Content-Type": "application/json"} | ({"Authorization": authorization} if authorization else {})
request = urllib.request.Request(url, body.encode() or None, headers, method=method or None)
try:
    with urllib.request.urlopen(request, timeout=60) as response:
        print(response.status, response.read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""


def basic(credentials: str) -> str:
    return "Basic " + base64.b64encode(credentials.encode()).decode()


@dataclass
class Stack:
    """The services of compose.yaml, as far as they have been started."""

    network: Network
    image: Path
    secrets: dict[str, str]
    folder: Path
    config: dict[str, Any] = field(init=False)
    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.config = compose(self.secrets)

    def container(self, service: str, command: list[str] | None = None) -> Container:
        """Return what compose makes of `service`, or another `command` in its place."""
        found = self.config["services"][service]
        if service == "postgres":
            return Container(
                self.image, command or [], found["environment"], {"/var/lib/pg": self.folder / "pg"}, postgres_user()
            )
        assert found["read_only"]
        mounted = dict(volume.split(":") for volume in found.get("volumes", []))
        volumes = {}
        for name, target in mounted.items():
            volumes[target] = self.folder / name
            volumes[target].mkdir(exist_ok=True)
        return Container(self.image, command or found["command"], found.get("environment", {}), volumes)

    def up(self, service: str) -> None:
        """Start `service` after what it waits for, until it is well."""
        if service in self.running:
            return
        for other in self.config["services"][service].get("depends_on", {}):
            self.up(other)
        if service == "postgres":
            self._make_database()
        self.running[service] = self.start(service)
        if self.config["services"][service]["restart"] == "no":
            assert self.running[service].wait(WELL_WITHIN_S) == 0, self.log(service)
        else:
            self.wait_until_well(service)

    def start(self, service: str) -> "subprocess.Popen[bytes]":
        server = [postgres("postgres"), "-D", "/var/lib/pg", "-k", "/tmp", "-c", "listen_addresses=*"]
        command = server if service == "postgres" else None
        return self.network.start(self.container(service, command), self.folder / f"{service}.log")

    def wait_until_well(self, service: str) -> None:
        kind, *check = self.config["services"][service]["healthcheck"]["test"]
        assert kind == "CMD"
        if service == "postgres":
            check[0] = postgres(check[0])
        deadline = time.monotonic() + WELL_WITHIN_S
        while self.network.run(self.container(service, check))[0] != 0:
            assert self.running[service].poll() is None, self.log(service)
            assert time.monotonic() < deadline, self.log(service)
            time.sleep(0.5)

    def _make_database(self) -> None:
        """Do what the image of PostgreSQL does on its first start: make the database, run the mounted SQL."""
        (self.folder / "pg").mkdir()
        words = [postgres("initdb"), "-D", "/var/lib/pg", "-U", "postgres", "--auth=scram-sha-256"]
        password = self.network.folder / "password"
        password.write_text(self.secrets["POSTGRES_PASSWORD"])
        made = Container(
            self.image,
            [*words, "--pwfile=/pw"],
            {},
            {"/var/lib/pg": self.folder / "pg", "/pw": password},
            postgres_user(),
        )
        code, said = self.network.run(made)
        assert code == 0, said
        volumes = self.config["services"]["postgres"]["volumes"]
        [sql] = [volume.split(":")[0] for volume in volumes if "initdb.d" in volume]
        start = f"{postgres('pg_ctl')} -D /var/lib/pg -w -o '-k /tmp -c listen_addresses=' start"
        run = f"{postgres('psql')} -h /tmp -U postgres -v ON_ERROR_STOP=1 --no-psqlrc -f /project/infra/{sql}"
        stop = f"{postgres('pg_ctl')} -D /var/lib/pg -w stop"
        script = f"export PGPASSWORD=$POSTGRES_PASSWORD; {start} && {run} && {stop}"
        code, said = self.network.run(self.container("postgres", ["sh", "-c", script]))
        assert code == 0, said

    def log(self, service: str) -> str:
        return (self.folder / f"{service}.log").read_text()

    def ask(self, url: str, credentials: str = "", body: Any = None, method: str = "") -> tuple[int, Any]:
        """Return status and answer of `url`, asked within the network."""
        words = [url, basic(credentials) if credentials else "", "" if body is None else json.dumps(body), method]
        inside = ["ip", "netns", "exec", self.network.name, sys.executable, "-c", ASK, *words]
        done = subprocess.run(inside, capture_output=True, text=True, check=True)
        status, _, answer = done.stdout.partition(" ")
        return int(status), json.loads(answer) if answer.lstrip().startswith(("{", "[")) else answer

    def prefect(self, path: str, body: Any = None, method: str = "") -> Any:
        status, answer = self.ask(f"http://prefect:4200/api{path}", self.secrets["PREFECT_AUTH"], body, method)
        assert status in (200, 201, 204), answer
        return answer

    def run(self, params: dict[str, Any]) -> str:
        """Start a run of the deployment `transfer`, and return its id."""
        deployment = self.prefect("/deployments/name/transfer/transfer")
        run = self.prefect(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": {"params": params}})
        return str(run["id"])

    def wait_while(self, run: str, *states: str) -> str:
        """Wait until `run` is in no such state any more, and return in which."""
        deadline = time.monotonic() + RUN_WITHIN_S
        while (state := self.prefect(f"/flow_runs/{run}")["state"]["type"]) in states:
            assert time.monotonic() < deadline, self.log("worker-cpu")
            time.sleep(1)
        return str(state)

    def cut_the_power(self, *services: str) -> None:
        """Kill services with all that they have started, before any of it can say a word."""
        heads = [psutil.Process(self.running.pop(service).pid) for service in services]
        processes = [process for head in heads for process in (head, *head.children(recursive=True))]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in processes:
                os.kill(process.pid, number)
        psutil.wait_procs(processes, timeout=60)

    def mlflow(self, path: str) -> Any:
        admin = f"{self.secrets['MLFLOW_ADMIN_USERNAME']}:{self.secrets['MLFLOW_ADMIN_PASSWORD']}"
        status, answer = self.ask(f"http://mlflow:5000/api/2.0/mlflow{path}", admin)
        assert status == 200, answer
        return answer


def postgres(program: str) -> str:
    """Return the path of one of PostgreSQL's programs, of its newest version here."""
    return str(max(POSTGRES.glob(f"*/bin/{program}"), key=lambda path: int(path.parts[4])))


def postgres_user() -> int:
    return pwd.getpwnam("postgres").pw_uid


@pytest.fixture(scope="module")
def stack(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    hosts = dict.fromkeys(("postgres", "seaweedfs", "prefect", "mlflow"), "127.0.0.1")
    with network(f"genxfer-compose{os.getpid()}", folder, hosts) as net:
        yield Stack(net, image, filled_in(), folder)


@pytest.fixture
def up(stack: Stack) -> Callable[..., Stack]:
    """A function that starts services, unless they run already, and what they depend on."""

    def start(*services: str) -> Stack:
        for service in services:
            stack.up(service)
        return stack

    return start


def psql(stack: Stack, role: str, password: str, database: str, sql: str) -> tuple[int, str]:
    words = [postgres("psql"), "-h", "postgres", "-U", role, "-d", database, "-tAc", sql]
    return stack.network.run(Container(stack.image, words, {"PGPASSWORD": password}))


def test_each_server_has_a_role_and_databases_of_its_own(up: Callable[..., Stack]) -> None:
    stack = up("postgres")
    mlflow, prefect = stack.secrets["MLFLOW_DB_PASSWORD"], stack.secrets["PREFECT_DB_PASSWORD"]
    assert psql(stack, "mlflow", mlflow, "mlflow_users", "select current_user") == (0, "mlflow\n")
    assert psql(stack, "prefect", prefect, "prefect", "create extension pg_trgm")[0] == 0
    for role, password, database in (("mlflow", mlflow, "prefect"), ("prefect", prefect, "mlflow")):
        code, said = psql(stack, role, password, database, "select 1")
        assert code != 0
        assert "permission denied" in said
    assert "authentication failed" in psql(stack, "mlflow", "wrong", "mlflow", "select 1")[1]


def test_the_buckets_are_there_for_who_has_the_keys(up: Callable[..., Stack]) -> None:
    stack = up("seaweedfs")
    script = "import boto3; print(sorted(b['Name'] for b in boto3.client('s3').list_buckets()['Buckets']))"
    client = stack.config["x-s3-client"]
    inside = Container(stack.image, ["python", "-c", script], client)
    until(lambda: stack.network.run(inside) == (0, "['dvc', 'genxfer', 'mlflow']\n"), BUCKETS_WITHIN_S)
    code, said = stack.network.run(
        Container(stack.image, ["python", "-c", script], client | {"AWS_SECRET_ACCESS_KEY": "wrong"})
    )
    assert code != 0
    assert "SignatureDoesNotMatch" in said
    assert stack.ask("http://seaweedfs:8333/genxfer")[0] == 403


def test_mlflow_lets_in_who_has_a_password(up: Callable[..., Stack]) -> None:
    stack = up("mlflow")
    url = "http://mlflow:5000/api/2.0/mlflow/experiments/search?max_results=1"
    assert stack.ask(url)[0] == 401
    assert stack.ask(url, "admin:password1234")[0] == 401
    assert stack.mlflow("/experiments/search?max_results=1")["experiments"]
    assert stack.ask(f"{url}&x", "evil:host")[0] == 401
    tables = "select count(*) from information_schema.tables where table_name in ('experiments', 'users')"
    password = stack.secrets["MLFLOW_DB_PASSWORD"]
    assert psql(stack, "mlflow", password, "mlflow", tables) == (0, "1\n")
    assert psql(stack, "mlflow", password, "mlflow_users", tables) == (0, "1\n")


def test_prefect_lets_in_who_has_a_password_and_has_its_tables_in_postgresql(up: Callable[..., Stack]) -> None:
    stack = up("prefect")
    url = "http://prefect:4200/api/work_pools/filter"
    assert stack.ask(url, body={})[0] == 401
    assert stack.ask(url, "team:wrong", {})[0] == 401
    assert isinstance(stack.prefect("/work_pools/filter", {}), list)
    sql = "select count(*) from flow_run"
    assert psql(stack, "prefect", stack.secrets["PREFECT_DB_PASSWORD"], "prefect", sql) == (0, "0\n")


def test_prefects_pages_know_where_their_api_is(up: Callable[..., Stack]) -> None:
    stack = up("prefect")
    status, settings = stack.ask("http://127.0.0.1:4200/ui-settings")
    assert status == 200
    assert settings["api_url"] == "http://127.0.0.1:4200/api"
    assert "<html" in stack.ask("http://127.0.0.1:4200/")[1].lower()


def test_the_deployments_are_made_and_may_be_made_again(up: Callable[..., Stack]) -> None:
    stack = up("deploy")
    first = {found["name"]: found["id"] for found in stack.prefect("/deployments/filter", {})}
    assert {"transfer", "compare"} <= set(first)
    assert stack.start("deploy").wait(WELL_WITHIN_S) == 0, stack.log("deploy")
    assert {found["name"]: found["id"] for found in stack.prefect("/deployments/filter", {})} == first


def test_what_was_set_in_the_pages_stays_when_the_deployments_are_made_again(up: Callable[..., Stack]) -> None:
    stack = up("deploy")
    deployment = stack.prefect("/deployments/name/transfer/transfer")["id"]
    own = {"schedule": {"cron": "0 5 * * 0", "timezone": "UTC"}, "active": False}
    stack.prefect(f"/deployments/{deployment}/schedules", [own])
    stack.prefect("/work_pools/genxfer", {"concurrency_limit": 3, "is_paused": True}, "PATCH")
    assert stack.start("deploy").wait(WELL_WITHIN_S) == 0, stack.log("deploy")
    schedules = stack.prefect(f"/deployments/{deployment}/schedules")
    assert sorted(one["schedule"]["cron"] for one in schedules) == ["0 2 * * *", "0 5 * * 0"]
    pool = stack.prefect("/work_pools/genxfer")
    assert (pool["concurrency_limit"], pool["is_paused"]) == (3, True)
    stack.prefect("/work_pools/genxfer", {"concurrency_limit": None, "is_paused": False}, "PATCH")


def test_a_worker_runs_a_flow_and_its_model_is_in_mlflow(up: Callable[..., Stack], tiny: dict[str, Any]) -> None:
    stack = up("worker-cpu")
    state = stack.wait_while(stack.run(tiny), "SCHEDULED", "PENDING", "RUNNING")
    assert state == "COMPLETED", stack.log("worker-cpu")
    version = stack.mlflow("/model-versions/get?name=genxfer&version=1")["model_version"]
    assert version["status"] == "READY"
    listing = """if True:
        import boto3
        for bucket, prefix in (("genxfer", "store/records/"), ("mlflow", "artifacts/")):
            found = boto3.client("s3").list_objects_v2(Bucket=bucket, Prefix=prefix)
            print(bucket, found["KeyCount"] >= 7)
    """
    inside = Container(stack.image, ["python", "-c", listing], stack.config["x-s3-client"])
    assert stack.network.run(inside) == (0, "genxfer True\nmlflow True\n")


def test_after_a_power_cut_the_run_that_was_is_crashed_and_its_slot_free(
    up: Callable[..., Stack], tiny: dict[str, Any]
) -> None:
    stack = up("worker-cpu")
    long = tiny | {"pretrain": tiny["pretrain"] | {"kimg": 4000, "seed": 7}}
    run = stack.run(long)
    assert stack.wait_while(run, "SCHEDULED", "PENDING") == "RUNNING", stack.log("worker-cpu")
    stack.cut_the_power("worker-cpu", "prefect")
    assert stack.start("worker-cpu").wait(WELL_WITHIN_S) == 1  # nobody to ask yet: it has to be started again
    stack.up("prefect")
    stack.up("worker-cpu")
    assert stack.wait_while(run, "RUNNING") == "CRASHED", stack.log("worker-cpu")
    again = stack.run(tiny)
    assert stack.wait_while(again, "SCHEDULED", "PENDING", "RUNNING") == "COMPLETED", stack.log("worker-cpu")


def test_no_secret_is_in_a_log_or_among_the_arguments_of_a_process(up: Callable[..., Stack]) -> None:
    stack = up("worker-cpu")
    needed = {name: value for name, value in stack.secrets.items() if "p@/:%#" in value}
    assert len(needed) == 7
    said = {service: stack.log(service) for service in stack.running}
    assert len(said) == 6
    for pid in stack.network.pids():
        said[f"process {pid}"] = Path(f"/proc/{pid}/cmdline").read_text()
    for where, text in said.items():
        for name, value in needed.items():
            assert value not in text, f"{name} is told by {where}"
            assert value.split("p@/:%#")[1] not in text, f"{name} is told by {where}"
