"""Ports, logs, processes and PostgreSQL's programs: what can be said without a running stack."""

import stat
from pathlib import Path

import pytest

from genxfer.errors import ParameterError, StoreError
from genxfer.stack import postgres
from genxfer.stack.credentials import write_credentials
from genxfer.stack.dvc_remote import write_dvc_remote
from genxfer.stack.logs import bound, last_lines
from genxfer.stack.parts import client_environment, foreign_variables, parts
from genxfer.stack.settings import STACK, Ports, Settings, chosen_ports, load_settings
from tests.conftest import GenxferRun


def test_what_no_flag_names_stays_as_it_was(tmp_path: Path) -> None:
    Settings(tmp_path, full=True, ports=Ports.from_base(7000)).save()
    remembered = load_settings(tmp_path)
    assert remembered == Settings(tmp_path, True, Ports(7000, 7001, 7002, 7003))
    assert chosen_ports(remembered.ports, None, {"mlflow": 7100, "s3": None}) == Ports(7000, 7100, 7002, 7003)
    assert chosen_ports(remembered.ports, 8000, {"mlflow": 7100}) == Ports(8000, 7100, 8002, 8003)
    with pytest.raises(ParameterError, match="Port 70000 for s3 cannot be"):
        chosen_ports(remembered.ports, None, {"s3": 60_000})  # before it is remembered for a full stack
    with pytest.raises(ParameterError, match=r"^--port-base is 65534: Port 65536 for postgres .* 1024 to 55528 "):
        chosen_ports(remembered.ports, 65_534, {})
    assert chosen_ports(remembered.ports, 55_528, {}).s3 == 55_531  # whose last helper speaks gRPC on the last port
    with pytest.raises(ParameterError, match=r"^--port-base is 55529: Port 65536 for s3 cannot be"):
        chosen_ports(remembered.ports, 55_529, {})
    assert chosen_ports(remembered.ports, 65_534, {"postgres": 5442, "s3": 8333}).mlflow == 65_535


@pytest.mark.parametrize(
    ("ports", "named"),
    [
        (Ports(prefect=80), "Port 80 for prefect"),
        (Ports(mlflow=70_000), "Port 70000 for mlflow"),
        (Ports(s3=60_000), "its port + 10000"),
        (Ports(prefect=5000, mlflow=5000), "Port 5000 would be used twice"),
        (Ports(prefect=8335), "Port 8335 would be used twice"),  # one of S3's helpers
    ],
)
def test_ports_that_cannot_be_are_named(ports: Ports, named: str) -> None:
    with pytest.raises(ParameterError, match=named.replace("+", r"\+")):
        ports.used(full=True)


def test_a_log_stays_bounded_while_a_program_goes_on_writing(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    with log.open("ab", buffering=0) as program:
        for line in range(300):
            program.write(f"line {line}\n".encode())
            bound(log, most_bytes=1000)
            assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 2100
    assert last_lines(log)[-1] == "line 299"
    assert log.with_name("part.log.1").read_text().startswith("line ")


def test_credentials_are_made_once_and_hidden(tmp_path: Path) -> None:
    first = write_credentials(Settings(tmp_path))
    assert write_credentials(Settings(tmp_path)) == first
    assert write_credentials(Settings(tmp_path / "other")) != first


def test_the_dvc_remote_leaves_the_other_local_settings_alone(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    local = tmp_path / ".dvc/config.local"
    local.write_text("['remote \"mine\"']\n    url = s3://mine\n")
    write_dvc_remote(Settings(tmp_path))
    write_dvc_remote(Settings(tmp_path, ports=Ports(s3=9999)))
    assert "s3://mine" in local.read_text()
    assert local.read_text().count("endpointurl") == 1
    assert ":9999" in local.read_text()


def test_the_dvc_remote_is_written_among_private_settings_and_their_comments(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    local, settings = tmp_path / ".dvc/config.local", Settings(tmp_path)
    write_dvc_remote(settings)
    assert stat.S_IMODE(local.stat().st_mode) == 0o600
    ours = local.read_text()

    before = "# mine\n['remote \"team\"']\n    secret_access_key = TOPSECRET  # of the team\n"
    after = "\n# the cache\n[cache]\r\n    dir = /cache\n"
    for mode in (0o640, 0o664):  # one of which the usual mask would change
        local.write_bytes(before.encode())
        local.chmod(mode)
        write_dvc_remote(settings)
        assert local.read_bytes().decode() == before + ours
        assert stat.S_IMODE(local.stat().st_mode) == mode
    local.write_bytes((before + ours + after).encode())
    write_dvc_remote(Settings(tmp_path, ports=Ports(s3=9999)))
    assert local.read_bytes().decode() == before + ours.replace("8333", "9999") + after

    same = '[remote "stack"]\n  # of the stack\n' + ours.partition("\n")[2]  # the same, in somebody's own words
    local.write_text(same)
    write_dvc_remote(settings)
    assert local.read_text() == same
    write_dvc_remote(Settings(tmp_path, ports=Ports(s3=9999)))
    assert local.read_text() == ours.replace("8333", "9999")


@pytest.mark.parametrize("content", [b"['remote \"team\"']\n    sekret\n", b"sekret\n", b"[a]\n[a]\n", b"\xff"])
def test_local_settings_of_dvc_that_are_broken_are_named_and_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".dvc").mkdir()
    local = tmp_path / ".dvc/config.local"
    local.write_bytes(content)
    with pytest.raises(StoreError, match=rf"^{local} cannot be read \(\w+\), and the remote 'stack'") as told:
        write_dvc_remote(Settings(tmp_path))
    assert "sekret" not in str(told.value)
    assert local.read_bytes() == content


def test_without_postgresql_the_message_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgres, "DEBIAN_FOLDER", tmp_path)
    with pytest.raises(StoreError, match="apt-get install postgresql"):
        postgres.Cluster.of(Settings(tmp_path))


def test_a_cluster_of_a_version_that_is_gone_is_not_touched(tmp_path: Path) -> None:
    data = tmp_path / ".genxfer/stack/postgres/data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("9\n")
    with pytest.raises(StoreError, match="postgresql-9"):
        postgres.Cluster.of(Settings(tmp_path))


def test_a_proxy_is_not_asked_for_the_stacks_own_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "intranet")
    assert client_environment(Settings(tmp_path))["NO_PROXY"] == "intranet,127.0.0.1,localhost"
    monkeypatch.setenv("NO_PROXY", "*")
    assert client_environment(Settings(tmp_path))["NO_PROXY"] == "*"


def test_another_registry_of_the_users_is_not_the_stacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "sqlite:////elsewhere.db")  # what a worker would register in
    monkeypatch.setenv("MLFLOW_REGISTRY_STORE_URI", "sqlite:////elsewhere.db")  # what MLflow's server would ask
    settings = Settings(tmp_path)
    assert not [part.name for part in parts(settings) if "sqlite:////elsewhere.db" in part.environment.values()]
    assert foreign_variables(settings) == ["MLFLOW_REGISTRY_URI"]


def test_what_a_shell_has_from_the_full_stack_is_not_the_small_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, full = Settings(tmp_path), Settings(tmp_path, full=True)
    monkeypatch.setenv("GENXFER_STORE", "s3://genxfer/store")  # a bucket of the user's that is called so
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_SHARED_CREDENTIALS_FILE", raising=False)
    worker = parts(small)[-1].environment
    assert (worker["GENXFER_STORE"], worker["AWS_DEFAULT_REGION"]) == ("s3://genxfer/store", "us-east-1")
    assert foreign_variables(small) == ["MLFLOW_REGISTRY_URI"]

    for name, value in client_environment(full).items():  # eval "$(genxfer env)"
        monkeypatch.setenv(name, value)
    store = {*client_environment(full)} - {*client_environment(small)}
    for part in parts(small):
        assert not store & {*part.environment}, part.name
    assert {*foreign_variables(small)} == {"MLFLOW_REGISTRY_URI", *store}
    assert not store & {*foreign_variables(full)}

    monkeypatch.setenv("GENXFER_STORE", "/data/store")  # chosen since
    assert parts(small)[-1].environment["GENXFER_STORE"] == "/data/store"
    assert "GENXFER_STORE" not in foreign_variables(small)


def test_files_that_cannot_be_written_or_read_are_told_of(tmp_path: Path, genxfer: GenxferRun) -> None:
    (tmp_path / "prefect.yaml").touch()
    (tmp_path / STACK / "up.lock").mkdir(parents=True)  # a folder in a file's place
    done = genxfer(tmp_path, "up")
    assert done.returncode == 4, done.stderr
    assert "The stack could not be prepared. Is a directory" in done.stderr
    assert "Traceback" not in done.stderr
    (tmp_path / STACK / "settings.json").mkdir()
    with pytest.raises(ParameterError, match=r"settings\.json cannot be read .*Is a directory"):
        load_settings(tmp_path)


@pytest.mark.parametrize("verb", ["up", "down", "status", "env"])
def test_the_stack_belongs_to_a_project(tmp_path: Path, genxfer: GenxferRun, verb: str) -> None:
    done = genxfer(tmp_path, verb)
    assert done.returncode == 2
    assert "prefect.yaml" in done.stderr


def test_without_a_stack_status_says_how_to_start_it(tmp_path: Path, genxfer: GenxferRun) -> None:
    (tmp_path / "prefect.yaml").touch()
    assert genxfer(tmp_path, "down").returncode == 0
    status = genxfer(tmp_path, "status")
    assert status.returncode == 1
    assert "genxfer up" in status.stdout
    assert "genxfer up" in genxfer(tmp_path, "env").stderr
