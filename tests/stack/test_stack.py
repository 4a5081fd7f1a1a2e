"""The small stack, run for real: up, watched, repaired, down; told by the process table and by the servers."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any

import psutil
import pytest
import yaml

from tests.conftest import clean_environment
from tests.stack.conftest import GONE_WITHIN_S, WELL_WITHIN_S, Stack
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.service, pytest.mark.timeout(900)]

PARTS = ["prefect", "mlflow", "deployments", "worker"]


@pytest.fixture
def stack(small: Stack) -> Stack:
    """The stack, up and healthy whatever the test before did to it."""
    if not small.status()["healthy"]:
        assert small.up().returncode == 0
    return small


@pytest.fixture
def stopped(small: Stack) -> Stack:
    assert small.run("down").returncode == 0
    return small


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return str(answer.read().decode())


def pids(stack: Stack) -> dict[str, Any]:
    return {part["name"]: part["pid"] for part in stack.status()["parts"]}


def test_status_tells_each_part(stack: Stack) -> None:
    parts = {part["name"]: part for part in stack.status()["parts"]}
    assert list(parts) == PARTS
    assert {name: part["state"] for name, part in parts.items()} == dict.fromkeys(PARTS, "healthy") | {
        "deployments": "done"
    }
    assert all(psutil.pid_exists(parts[name]["pid"]) for name in ("prefect", "mlflow", "worker"))
    assert parts["mlflow"]["url"] == stack.mlflow_url
    table = stack.run("status")
    assert table.returncode == 0
    assert re.search(rf"MLflow server +healthy +{parts['mlflow']['pid']} +{stack.mlflow_url}", table.stdout)


def test_the_pages_are_there_and_ask_the_right_server(stack: Stack) -> None:
    prefect = f"http://127.0.0.1:{stack.base}"
    assert "Prefect" in read(prefect)
    assert f'"api_url":"{prefect}/api"' in read(f"{prefect}/ui-settings").replace(" ", "")
    assert "MLflow" in read(stack.mlflow_url)


def test_no_other_page_in_the_users_browser_may_ask_prefect(stack: Stack) -> None:
    def allowed(origin: str) -> str | None:
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        request = urllib.request.Request(f"{stack.prefect.url}/flow_runs/filter", headers=headers, method="OPTIONS")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return str(answer.headers["Access-Control-Allow-Origin"])
        except urllib.error.HTTPError as error:
            return error.headers["Access-Control-Allow-Origin"]

    for own in (f"http://127.0.0.1:{stack.base}", f"http://localhost:{stack.base}"):
        assert allowed(own) == own
    assert allowed("http://evil.example") is None


def test_the_deployments_of_prefect_yaml_are_registered(stack: Stack) -> None:
    written = yaml.safe_load((stack.project / "prefect.yaml").read_text())["deployments"]
    registered = {deployment["name"] for deployment in stack.prefect.ask("/deployments/filter", {})}
    assert registered == {deployment["name"] for deployment in written}
    deployment = stack.prefect.ask("/deployments/name/transfer/transfer")
    assert deployment["work_pool_name"] == "genxfer"
    assert [schedule["active"] for schedule in deployment["schedules"]] == [False]
    assert stack.prefect.ask("/work_pools/genxfer")["type"] == "process"
    workers = stack.prefect.ask("/work_pools/genxfer/workers/filter", {})
    assert [worker["status"] for worker in workers] == ["ONLINE"]


def test_a_second_up_changes_nothing(stack: Stack) -> None:
    before = pids(stack)
    done = stack.up()
    assert done.returncode == 0
    assert "up already" in done.stderr
    assert stack.mlflow_url in done.stdout
    assert pids(stack) == before


def test_up_without_its_flags_means_the_stack_that_is_up(stack: Stack) -> None:
    done = stack.run("up")
    assert done.returncode == 0
    assert f"http://127.0.0.1:{stack.base}" in done.stdout


def test_up_with_other_ports_is_refused_while_it_is_up(stack: Stack) -> None:
    done = stack.up("--mlflow-port", str(stack.base + 500))
    assert done.returncode == 2
    assert "genxfer down" in done.stderr
    assert stack.status()["healthy"]


def test_a_shell_uses_the_stack(stack: Stack) -> None:
    script = 'eval "$(genxfer env)" && echo "$PREFECT_API_URL $MLFLOW_TRACKING_URI"'
    environment = clean_environment(stack.project)
    done = subprocess.run(["sh", "-c", script], cwd=stack.project, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [stack.prefect.url, stack.mlflow_url], done.stderr


def test_nothing_listens_elsewhere(stack: Stack) -> None:
    listening = stack.listening()
    assert len(listening) >= 2
    assert {address.ip for address in listening} == {"127.0.0.1"}


@pytest.mark.parametrize("name", ["worker", "mlflow", "prefect"])
def test_a_killed_part_comes_back(stack: Stack, name: str) -> None:
    before = stack.part(name)["restarts"]
    killed = stack.kill(name)
    until(lambda: stack.part(name)["restarts"] == before + 1 or None, WELL_WITHIN_S)
    stack.until_well()
    assert stack.pid(name) != killed


def test_what_was_given_up_and_repaired_comes_back_with_up(stack: Stack) -> None:
    folder = stack.folder / "mlflow"
    folder.rename(stack.folder / "elsewhere")
    folder.touch()
    try:
        stack.kill("mlflow")
        failed = until(lambda: part if (part := stack.part("mlflow"))["state"] == "failed" else None, WELL_WITHIN_S)
        assert "given up after" in failed["message"]
        done = stack.up()
        assert done.returncode == 1
        assert "MLflow server did not come up" in done.stderr
    finally:
        folder.unlink()
        (stack.folder / "elsewhere").rename(folder)
    done = stack.up()
    assert done.returncode == 0, done.stderr
    assert stack.status()["healthy"]


def test_schedules_are_as_the_user_left_them_after_down_and_up(stack: Stack) -> None:
    deployment = stack.prefect.ask("/deployments/name/transfer/transfer")
    path = f"/deployments/{deployment['id']}/schedules"
    own = {"schedule": {"cron": "0 5 * * 0", "timezone": "UTC"}, "active": True}
    stack.prefect.ask(path, [own])  # as the pages do it: without a slug
    for schedule in deployment["schedules"]:
        stack.prefect.ask(f"{path}/{schedule['id']}", {"active": True}, "PATCH")
    assert stack.run("down").returncode == 0
    assert stack.up().returncode == 0
    schedules = stack.prefect.ask(path)
    assert {schedule["schedule"]["cron"]: schedule["active"] for schedule in schedules} == {
        deployment["schedules"][0]["schedule"]["cron"]: True,
        "0 5 * * 0": True,
    }


def test_schedules_survive_a_deployment_that_was_killed_half_way(stack: Stack) -> None:
    path = f"/deployments/{stack.prefect.ask('/deployments/name/transfer/transfer')['id']}/schedules"
    [own] = stack.prefect.ask(path, [{"schedule": {"cron": "0 6 * * 0", "timezone": "UTC"}, "active": False}])
    before = {one["id"]: one["schedules"] for one in stack.prefect.ask("/deployments/filter", {})}
    stack.prefect.ask(f"{path}/{own['id']}", method="DELETE")  # as `prefect deploy` does
    (stack.folder / "prefect/schedules-before.json").write_text(json.dumps(before))
    environment = clean_environment(stack.project)
    environment |= {"PREFECT_API_URL": stack.prefect.url, "PREFECT_HOME": str(stack.folder / "prefect")}
    for _ in range(2):  # once is enough; twice makes no second one
        command = [sys.executable, "-m", "genxfer.stack.deploy"]
        done = subprocess.run(command, cwd=stack.project, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert [one["schedule"]["cron"] for one in stack.prefect.ask(path)].count("0 6 * * 0") == 1
    assert not (stack.folder / "prefect/schedules-before.json").exists()


def test_a_supervisor_that_is_killed_leaves_nothing_and_up_starts_anew(stack: Stack) -> None:
    stack.kill("supervisor")
    stack.until_gone()
    assert stack.status()["state"] == "down"
    assert stack.up().returncode == 0


def test_a_warden_that_is_killed_leaves_nothing(stack: Stack) -> None:
    warden = psutil.Process(stack.pid("supervisor")).parent()
    assert warden is not None
    assert any("genxfer.stack.warden" in part for part in warden.cmdline())
    warden.kill()
    stack.until_gone()


def test_both_killed_at_once_is_repaired_by_up(stack: Stack) -> None:
    supervisor = psutil.Process(stack.pid("supervisor"))
    warden = supervisor.parent()
    assert warden is not None
    for process in (warden, supervisor):
        process.suspend()
    for process in (warden, supervisor):
        process.kill()
    assert stack.up().returncode == 0
    assert {process.ppid() for process in stack.members() if process.pid == stack.pid("prefect")} == {
        stack.pid("supervisor")
    }


def test_down_leaves_no_process_and_keeps_the_data(stack: Stack) -> None:
    before = stack.members()
    assert len(before) >= 6
    done = stack.run("down")
    assert done.returncode == 0
    assert not [process for process in before if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert stack.status()["state"] == "down"
    assert (stack.folder / "prefect/prefect.db").exists()
    assert "not running" in stack.run("down").stdout


def test_up_while_down_is_at_work_makes_a_stack_that_stays(stack: Stack) -> None:
    before = stack.pid("supervisor")
    environment = clean_environment(stack.project)
    with subprocess.Popen([sys.executable, "-m", "genxfer", "down"], cwd=stack.project, env=environment) as down:
        until(lambda: stack.status()["state"] == "stopping" or down.poll() is not None, GONE_WITHIN_S)
        done = stack.up()
        assert done.returncode == 0, done.stderr
        assert down.wait(GONE_WITHIN_S) == 0
    assert "the stack is up" not in done.stderr
    assert stack.status()["healthy"]
    assert stack.pid("supervisor") != before


def test_down_ends_what_a_part_detached_from_it(stack: Stack) -> None:
    """A process of its own session, whose parents are gone, still belongs to the stack."""
    environment = psutil.Process(stack.pid("worker")).environ()
    orphan = subprocess.Popen(["sleep", "600"], env=environment, start_new_session=True)
    assert stack.run("down").returncode == 0
    assert orphan.wait(GONE_WITHIN_S) != 0


def test_a_port_already_taken_is_named_with_who_has_it(stopped: Stack) -> None:
    with socket.create_server(("127.0.0.1", stopped.base + 1)):
        done = stopped.up()
    assert done.returncode == 2
    assert f"Port {stopped.base + 1}" in done.stderr
    assert f"process {os.getpid()}" in done.stderr
    assert "--mlflow-port" in done.stderr
    assert not stopped.members()


def test_a_process_that_got_the_supervisors_number_is_let_alone(stopped: Stack) -> None:
    other = subprocess.Popen(["sleep", "600"])
    try:
        state = stopped.folder / "state.json"
        state.write_text(re.sub(r'"pid": \d+,\s*"started"', f'"pid": {other.pid}, "started"', state.read_text()))
        assert f'"pid": {other.pid}' in state.read_text()
        assert stopped.status()["state"] == "down"
        assert stopped.run("down").returncode == 0
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_part_that_cannot_start_is_named_with_its_last_words_and_nothing_is_left(stopped: Stack) -> None:
    database = stopped.folder / "mlflow/mlflow.db"
    kept = database.read_bytes()
    try:
        database.write_text("no database at all")
        done = stopped.up()
    finally:
        database.write_bytes(kept)
    assert done.returncode == 1
    assert "MLflow server did not come up" in done.stderr
    assert "file is not a database" in done.stderr
    assert not stopped.members()


@pytest.mark.parametrize("database", ["prefect/prefect", "mlflow/mlflow"])
def test_a_first_start_killed_while_it_made_the_tables_is_begun_anew(stopped: Stack, database: str) -> None:
    file = stopped.folder / f"{database}.db"
    file.with_suffix(".complete").unlink()
    file.write_bytes(file.read_bytes()[:50_000])
    assert stopped.up().returncode == 0
    [aside] = file.parent.glob(f"incomplete-*/{file.name}")
    assert aside.stat().st_size == 50_000


def test_an_interrupted_up_leaves_nothing(stopped: Stack) -> None:
    command = [*psutil.Process().cmdline()[:1], "-m", "genxfer", "up", "--port-base", str(stopped.base)]
    environment = clean_environment(stopped.project)
    up = subprocess.Popen(command, cwd=stopped.project, env=environment, stderr=subprocess.PIPE, text=True)
    until(lambda: len(stopped.members()) > 3, WELL_WITHIN_S)
    up.send_signal(signal.SIGINT)
    errors = up.communicate(timeout=GONE_WITHIN_S + 60)[1]
    assert up.returncode == 130
    assert errors.endswith("genxfer: interrupted.\n")  # there is no checkpoint to go on from
    assert not stopped.members()


def test_two_ups_at_once_make_one_stack(stopped: Stack) -> None:
    command = [*psutil.Process().cmdline()[:1], "-m", "genxfer", "up", "--port-base", str(stopped.base)]
    with contextlib.ExitStack() as both:
        ups = [
            both.enter_context(subprocess.Popen(command, cwd=stopped.project, env=clean_environment(stopped.project)))
            for _ in range(2)
        ]
        assert [up.wait(WELL_WITHIN_S) for up in ups] == [0, 0]
    supervisors = [one for one in stopped.members() if "genxfer.stack.supervisor" in one.cmdline()]
    assert len(supervisors) == 1
