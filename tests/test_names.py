"""STAGES, the verbs, dvc.yaml, params.yaml, the tasks and the flow name the same things; so do documents and code."""

import re
import runpy
import tomllib
from collections.abc import Iterator
from typing import get_args

import yaml

from genxfer.cli import STAGE_VERBS
from genxfer.config import Params
from genxfer.errors import GenxferError
from genxfer.registry import promotion
from genxfer.stages import STAGES
from tests.conftest import REPOSITORY


def sections() -> list[str]:
    return [field.alias or name for name, field in Params.model_fields.items()]


def test_every_stage_has_a_verb_and_every_verb_a_stage() -> None:
    assert list(dict.fromkeys(name.partition("_")[0] for name in STAGES)) == list(STAGE_VERBS)


def test_dvc_has_each_stage_with_its_verb() -> None:
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    assert list(stages) == list(STAGES)
    assert [stage["cmd"] for stage in stages.values()] == [f"genxfer {name.replace('_', ' ')}" for name in STAGES]


def test_dvc_depends_on_the_artifacts_that_the_stages_read() -> None:
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    for name, stage in STAGES.items():
        laid_out = {
            dependency.removeprefix("artifacts/") for dependency in stages[name]["deps"] if "artifacts" in dependency
        }
        read = {upstream for upstream, files in stage.inputs(Params()).items() if files}
        assert laid_out == read, name


def test_dvc_does_not_remove_a_model_before_its_stage_runs() -> None:
    """Each may be the source model: see finetune.init_from."""
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    for name in ("pretrain", "finetune", "baseline"):
        assert stages[name]["outs"] == [{f"artifacts/{name}": {"persist": True}}]


def test_dvc_watches_the_sections_that_decide_a_stage() -> None:
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    for name, stage in STAGES.items():
        assert stage.section in stages[name]["params"], name


def test_params_yaml_has_each_section_once_and_in_order() -> None:
    values = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    assert list(values) == sections()
    assert {stage.section for stage in STAGES.values()} == set(sections()) - {"model", "compare", "promote", "compute"}


def test_every_stage_is_a_task() -> None:
    from tasks.stages import TASKS

    assert list(TASKS) == list(STAGES)


def test_every_deployment_is_the_flow_of_its_name_and_starts_from_params_yaml() -> None:
    for deployment in yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]:
        name = deployment["name"]
        assert deployment["entrypoint"] == f"flows/{name}.py:{name}"
        assert (REPOSITORY / "flows" / f"{name}.py").is_file()
        assert deployment["parameters"]["params"] == "{{ parameters.params }}"


def test_the_order_of_the_rooms_is_that_of_the_import_contract() -> None:
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    expected = [layer.replace("genxfer.", "").split(" | ") for layer in layers]
    [told] = re.findall(r"^    (cli > .*\n(?: {4}.*\n)*)", (REPOSITORY / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert [room.strip(" ()").split(" | ") for room in " ".join(told.split()).split(" > ")] == expected


def test_the_page_of_the_parameters_is_of_this_code_and_explains_each() -> None:
    page = (REPOSITORY / "docs" / "parameters.md").read_text()
    assert page == runpy.run_path(str(REPOSITORY / "docs" / "parameters.py"))["page"](), "python docs/parameters.py"
    assert "|  |\n" not in page, "a parameter without a description"


def exit_codes(error: type[GenxferError]) -> Iterator[int]:
    yield error.exit_code
    for kind in error.__subclasses__():
        yield from exit_codes(kind)


def test_the_readme_tells_every_exit_code() -> None:
    told = re.findall(r"^\| ([\d, ]+) \|", (REPOSITORY / "README.md").read_text(), re.MULTILINE)
    codes = [int(code) for row in told for code in row.split(",")]
    assert codes == [*sorted(set(exit_codes(GenxferError))), 7, 129, 130, 143]


def test_the_document_names_all_that_make_clean_removes() -> None:
    [removed] = re.findall(r"^\trm -rf (.*)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    [said] = re.findall(r"`make clean`.*?\n\n", (REPOSITORY / "docs" / "operate.md").read_text(), re.DOTALL)
    for place in removed.split():
        assert f"`{place}`" in said
        assert not place.startswith("data"), "somebody's own images"


def test_the_document_names_all_events_that_the_webhook_is_told() -> None:
    alerts = (REPOSITORY / "docs" / "infrastructure.md").read_text().partition("## Alerts")[2]
    named = re.findall(r"^\| `([a-z ]+)` \|", alerts, re.MULTILINE)
    silent = {"not promoted", "already champion"}  # the champion stays
    assert set(named) == {"failed", "crashed", *get_args(promotion.State)} - silent
