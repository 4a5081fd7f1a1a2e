"""STAGES, the verbs, dvc.yaml, params.yaml, the tasks and the flow name the same things."""

import yaml

from genxfer.cli import STAGE_VERBS
from genxfer.config import Params
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
