"""`genxfer promote` and `rollback` as a user or a script meets them: exit codes, what is printed, who is told."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from genxfer.registry.config import ModelPackage, RegisterConfig
from genxfer.registry.models import register
from tests.conftest import GenxferRun
from tests.listener import listening
from tests.registry.test_rule import MEASURED

if TYPE_CHECKING:
    from mlflow import MlflowClient


@pytest.mark.slow
def test_promote_and_rollback_from_the_shell(
    client: "MlflowClient",
    store_uri: str,
    workspace: Path,
    tmp_path: Path,
    genxfer: GenxferRun,
    make_package: Callable[..., ModelPackage],
) -> None:
    def registered(number: int, kid: float) -> None:
        package = make_package(tmp_path / str(number), f"fp-shell-{number}")
        register(replace(package, measured=MEASURED | {"kid": kid}), RegisterConfig(name="shell"))

    with listening() as listener:
        environment = {"MLFLOW_TRACKING_URI": store_uri, "GENXFER_WEBHOOK_URL": f"{listener.url}/hook"}
        registered(1, 0.2)
        client.set_registered_model_alias("shell", "champion", "1")
        registered(2, 0.19)
        refused = genxfer(workspace, "promote", "shell", **environment)
        assert refused.returncode == 7, refused.stderr
        assert "does not lie above 0" in " ".join(refused.stdout.split())
        assert "not promoted" in refused.stdout
        assert "models:/shell/1" in refused.stdout
        assert listener.received == []

        registered(3, 0.1)
        options = ("-S", "register.name=shell", "--json")
        done = genxfer(workspace, "promote", *options, **environment)
        assert done.returncode == 0, done.stderr
        outcome = json.loads(done.stdout)
        told = {name: outcome[name] for name in ("state", "champion", "former", "challenger", "dry_run")}
        assert told == {"state": "promoted", "champion": "3", "former": "1", "challenger": "3", "dry_run": False}
        assert {check["name"]: check["passed"] for check in outcome["checks"]} == {
            "kid": True,
            "memorization": True,
            "loads": True,
            "stands": True,
        }
        assert [message["event"] for message in listener.received] == ["promoted"]
        assert "version 3 of shell is champion in place of version 1. KID 0.1" in listener.received[0]["text"]

        again = genxfer(workspace, "promote", *options, **environment)
        assert (again.returncode, json.loads(again.stdout)["state"]) == (0, "already champion")

        back = genxfer(workspace, "rollback", "shell", "--reason", "only threes", **environment)
        assert back.returncode == 0, back.stderr
        assert "only threes" in back.stdout
        assert "models:/shell/1, before it version 3" in " ".join(back.stdout.split())
        assert [message["event"] for message in listener.received] == ["promoted", "rolled back"]

        nothing = genxfer(workspace, "rollback", *options, **environment)
        assert (nothing.returncode, nothing.stdout) == (6, "")
        assert "nothing to roll back to" in nothing.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["promote", "-S", "promote.confidence=2"], 2, "promote.confidence is 2"),
        (["promote", "-S", "register.alias=champion"], 2, "register.alias is 'champion'"),
        (["gc", "--keep-days", "-1"], 2, "--keep-days is -1"),
        (["promote", ""], 2, "NAME is ''; it must be the name of a registered model"),
        (["rollback", ""], 2, "or leave NAME out"),
        (["promote"], 6, "There is no MLflow store"),
        (["rollback"], 6, "There is no MLflow store"),
    ],
)
def test_a_mistake_is_explained_and_writes_nothing(
    workspace: Path, genxfer: GenxferRun, arguments: list[str], code: int, expected: str
) -> None:
    before = set(workspace.rglob("*"))
    done = genxfer(workspace, *arguments)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert expected in done.stderr
    assert set(workspace.rglob("*")) == before
