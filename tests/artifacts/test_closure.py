import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from genxfer.artifacts.closure import PACKAGE_FOLDER, SourceTree, code_digests

PACKAGE = {
    "__init__.py": '"""The house."""\n',
    "stages.py": '''
        """Stages."""
        import math
        from typing import TYPE_CHECKING

        from house import metrics
        from house.models import build
        from house.training.engine import train as run_training

        if TYPE_CHECKING:
            from house.report import Page

        KIMG = 100
        UNUSED = 1


        def pretrain(kimg=KIMG) -> "Settings":
            """Pretrain."""
            model = build("dcgan")  # the model
            return run_training(model, math.sqrt(kimg))


        def evaluate():
            from house.report import page

            return page(metrics.kid)


        def lonely():
            return UNUSED


        class Settings:
            """Kept small."""

            width = 3
    ''',
    "models/__init__.py": '''
        """Models."""
        from house.models.dcgan import build
        from house.models.vae import build_vae

        FAMILIES = {"dcgan": "house.models.dcgan:build"}
    ''',
    "models/dcgan.py": """
        from .parts import Base, SLOPE as slope, unused_part


        class Net(Base):
            depth = 4


        def build(name):
            return Net(slope)


        def other():
            return unused_part()
    """,
    "models/vae.py": "def build_vae():\n    return 1\n",
    "models/parts.py": """
        import os

        SLOPE, OTHER = 0.2, 0.3
        REGISTRY = {}


        class Root:
            bias = 0


        class Base(Root):
            pass


        def unused_part():
            return os.getpid()
    """,
    "training/__init__.py": "",
    "training/engine.py": """
        from collections import OrderedDict as Table


        def train(model, kimg):
            return Table(model=helper(model))


        @decorated
        def helper(model):
            return model


        def decorated(function):
            return function
    """,
    "metrics/__init__.py": "",
    "metrics/kid.py": "from house.metrics import shared\n\n\ndef kid():\n    return shared.degree\n",
    "metrics/shared.py": "degree = 3\nspare = 4\n",
    "report.py": "def page(metric):\n    return metric\n\n\nclass Page:\n    pass\n",
}


@pytest.fixture
def house(tmp_path) -> Path:
    folder = tmp_path / "house"
    for name, source in PACKAGE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(source))
    return folder


def digests(house: Path, *roots: str) -> dict[str, str]:
    return SourceTree(house).digests(roots or ("house.stages:pretrain",))


def edit(house: Path, name: str, old: str, new: str) -> None:
    source = (house / name).read_text()
    assert old in source
    (house / name).write_text(source.replace(old, new, 1))


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def test_a_closure_holds_the_symbols_that_are_used_and_no_others(house):
    assert list(digests(house)) == [
        "house.models.dcgan:Net",
        "house.models.dcgan:build",
        "house.models.parts:Base",
        "house.models.parts:Root",
        "house.models.parts:SLOPE",
        "house.stages:KIMG",
        "house.stages:pretrain",
        "house.training.engine:decorated",
        "house.training.engine:helper",
        "house.training.engine:train",
    ]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        pytest.param("stages.py", "  # the model", "  # THE model", id="a comment"),
        pytest.param("stages.py", '"""Pretrain."""', '"""Train first."""', id="a docstring"),
        pytest.param("stages.py", '"""Kept small."""', "", id="a docstring of a class"),
        pytest.param("stages.py", '    """Pretrain."""\n', "", id="a docstring removed"),
        pytest.param("stages.py", '"""Stages."""', '"""All stages."""', id="a docstring of a module"),
        pytest.param(
            "stages.py", "return run_training(model, ", "return run_training(\n        model, ", id="a line break"
        ),
        pytest.param("stages.py", "UNUSED = 1", "UNUSED = 2", id="an unused constant"),
        pytest.param("stages.py", "width = 3", "width = 4", id="what a function is annotated with"),
        pytest.param("stages.py", "return UNUSED", "return -UNUSED", id="another stage"),
        pytest.param("stages.py", "import math\n", "import json\nimport math\n", id="an import nobody uses"),
        pytest.param(
            "stages.py", "house.report import Page", "house.report import page as Page", id="a type-checking import"
        ),
        pytest.param("models/__init__.py", "FAMILIES = {", "FAMILIES = {'vae': '', ", id="a registry"),
        pytest.param("models/vae.py", "return 1", "return 2", id="an unused family"),
        pytest.param(
            "models/dcgan.py", "return unused_part()", "return None", id="an unused function beside a used one"
        ),
        pytest.param("models/parts.py", "return os.getpid()", "return 0", id="an unused function it imports"),
        pytest.param("report.py", "return metric", "return None", id="a module of another stage"),
        pytest.param(
            "report.py", "def page", "if __name__ == '__main__':\n    page(1)\n\n\ndef page", id="a main block"
        ),
    ],
)
def test_what_cannot_matter_changes_nothing(house, file, old, new):
    before = digests(house)
    edit(house, file, old, new)
    assert digests(house) == before


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        pytest.param("stages.py", "math.sqrt(kimg)", "math.sqrt(kimg + 1)", {"house.stages:pretrain"}, id="the stage"),
        pytest.param("stages.py", "KIMG = 100", "KIMG = 200", {"house.stages:KIMG"}, id="a default"),
        pytest.param(
            "stages.py", "import math\n", "import cmath as math\n", {"house.stages:pretrain"}, id="an outside name"
        ),
        pytest.param(
            "training/engine.py", "return model\n", "return -model\n", {"house.training.engine:helper"}, id="a helper"
        ),
        pytest.param(
            "training/engine.py", "return function", "return 1", {"house.training.engine:decorated"}, id="a decorator"
        ),
        pytest.param(
            "training/engine.py", "OrderedDict as", "UserDict as", {"house.training.engine:train"}, id="an alias"
        ),
        pytest.param(
            "models/dcgan.py", "depth = 4", "depth = 5", {"house.models.dcgan:Net"}, id="a re-exported function's class"
        ),
        pytest.param(
            "models/parts.py", "bias = 0", "bias = 1", {"house.models.parts:Root"}, id="a base class of a base class"
        ),
        pytest.param(
            "models/parts.py", "= 0.2, 0.3", "= 0.1, 0.3", {"house.models.parts:SLOPE"}, id="a helper's constant"
        ),
    ],
)
def test_what_matters_changes_the_symbol_it_stands_in(house, file, old, new, expected):
    before = digests(house)
    edit(house, file, old, new)
    assert changed(before, digests(house)) == expected


def test_a_re_export_from_another_module_brings_that_module(house):
    edit(
        house,
        "models/__init__.py",
        "from house.models.dcgan import build",
        "from house.models.vae import build_vae as build",
    )
    assert "house.models.vae:build_vae" in digests(house)
    assert not any(name.startswith("house.models.dcgan") for name in digests(house))


def test_what_a_package_s_own_file_defines_counts_and_what_it_re_exports_does_not(house):
    with (house / "models/__init__.py").open("a") as file:
        file.write("\nDEPTH = 4\n\n\ndef load(name):\n    return build(name), DEPTH\n")
    edit(house, "stages.py", "models import build\n", "models import load as build\n")
    before = digests(house)
    assert {"house.models:load", "house.models:DEPTH", "house.models.dcgan:build"} <= before.keys()
    assert not {"house.models:FAMILIES", "house.models:build"} & before.keys()
    edit(house, "models/__init__.py", "import build_vae", "import build_vae, build_vae as autoencoder")
    assert digests(house) == before
    edit(house, "models/__init__.py", "return build(name)", "return build('vae')")
    assert changed(before, digests(house)) == {"house.models:load"}
    edit(house, "models/__init__.py", "DEPTH = 4", "DEPTH = 5")
    assert changed(before, digests(house)) == {"house.models:load", "house.models:DEPTH"}


def test_a_package_used_whole_counts_with_its_own_definitions_alone(house):
    edit(house, "stages.py", "from house import metrics", "from house import models as metrics")
    before = digests(house, "house.stages:evaluate")
    edit(house, "models/__init__.py", "import build_vae", "import build_vae, build_vae as autoencoder")
    assert digests(house, "house.stages:evaluate") == before
    edit(house, "models/__init__.py", "FAMILIES = {", "FAMILIES = {'vae': '', ")
    assert changed(before, digests(house, "house.stages:evaluate")) == {"house.models"}


def test_an_imported_module_and_an_import_in_a_body_count(house):
    before = digests(house, "house.stages:evaluate")
    assert list(before) == [
        "house.report:page",
        "house.stages:evaluate",
    ]
    edit(house, "stages.py", "from house import metrics", "from house.metrics import kid")
    edit(house, "stages.py", "metrics.kid", "kid.kid")
    assert list(digests(house, "house.stages:evaluate")) == [
        "house.metrics.kid",
        "house.metrics.shared",
        "house.report:page",
        "house.stages:evaluate",
    ]


def test_a_plain_import_of_a_submodule_brings_the_module_whole(house):
    edit(house, "stages.py", "from house import metrics", "import house.metrics.shared")
    edit(house, "stages.py", "metrics.kid", "house.metrics.shared.degree")
    before = digests(house, "house.stages:evaluate")
    edit(house, "metrics/shared.py", "spare = 4", "spare = 5")
    assert changed(before, digests(house, "house.stages:evaluate")) == {"house.metrics.shared"}


@pytest.mark.parametrize(
    "effect",
    [
        "REGISTRY['x'] = 1",
        "Root.bias = 2",
        "print('hello')",
        "if SLOPE:\n    SLOPE = 1",
        "try:\n    import fast as os\nexcept ImportError:\n    SLOPE = 3",
        "SLOPE += 1",
        "from house.models.vae import *",
    ],
)
def test_what_a_used_module_does_on_import_counts(house, effect):
    before = digests(house)
    with (house / "models/parts.py").open("a") as file:
        file.write(f"\n\n{effect}\n")
    after = digests(house)
    assert changed(before, after)
    assert {name.partition(":")[0] for name in changed(before, after)} <= {"house.models.parts", "house.models.vae"}


def test_a_class_is_a_root_and_a_module_is_one_too(house):
    assert "house.models.parts:Root" in digests(house, "house.models.dcgan:Net")
    whole = digests(house, "house.models.dcgan")
    assert {"house.models.dcgan", "house.models.parts:unused_part"} <= whole.keys()


@pytest.mark.parametrize("root", ["house.stages:pretain", "house.stage:pretrain", "house.nothing", "os:getpid"])
def test_a_root_that_is_not_there_is_refused(house, root):
    with pytest.raises(ValueError, match=root):
        digests(house, root)


def test_the_code_a_process_started_with_is_what_it_goes_on_to_name(house):
    before = code_digests(["house.stages:pretrain"], house)
    edit(house, "stages.py", "KIMG = 100", "KIMG = 200")
    assert code_digests(["house.stages:pretrain"], house) == before != digests(house)


def test_the_real_package_is_read_without_importing_it():
    script = f"""
import sys
from pathlib import Path
from genxfer.artifacts.closure import SourceTree
tree = SourceTree(Path({str(PACKAGE_FOLDER)!r}))
digests = tree.digests(["genxfer.artifacts.local:LocalStore", "genxfer.models.config:DCGANConfig"])
for module in tree._sources:
    tree.digests([module])
print(len(digests), "torch" in sys.modules, "pydantic" in sys.modules)
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert int(answer[0]) > 20
    assert answer[1:] == ["False", "False"]


def test_a_second_closure_reads_nothing_again(monkeypatch):
    tree = SourceTree(PACKAGE_FOLDER)
    roots = ["genxfer.artifacts.store", "genxfer.models.config"]
    first = tree.digests(roots)

    def read_again(*_, **__):
        raise AssertionError("a module was parsed again")

    monkeypatch.setattr(ast, "parse", read_again)
    assert tree.digests(roots) == first
    with pytest.raises(AssertionError, match="parsed again"):
        SourceTree(PACKAGE_FOLDER).digests(roots)


def test_the_store_s_own_symbols_are_found_in_the_real_package():
    found = code_digests(["genxfer.artifacts.store:open_store"])
    assert {
        "genxfer.artifacts.store:open_store",
        "genxfer.artifacts.store:DEFAULT_LOCATION",
        "genxfer.artifacts.local:LocalStore",
        "genxfer.artifacts.atomic:PendingFile",
        "genxfer.errors:GenxferError",
    } <= found.keys()
    assert "genxfer.errors:nearest" not in found


def test_how_an_extractor_is_found_and_loaded_is_code_of_the_evaluation():
    found = code_digests(["genxfer.stages.evaluation:run_evaluate"])
    assert {f"genxfer.metrics:{name}" for name in ("load_extractor", "_load", "NEED_WEIGHTS")} <= found.keys()


def test_a_registry_is_passed_by_and_its_entry_is_a_root_of_its_own(tmp_path):
    folder = tmp_path / "house"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "models.py").write_text("class A:\n    x = 1\n\nclass B:\n    x = 2\n\nFAMILIES = {'a': A, 'b': B}\n")
    (folder / "stages.py").write_text(
        "from house.models import FAMILIES\n\ndef train(name):\n    return FAMILIES[name]\n"
    )
    roots = ["house.stages:train", "house.models:A"]
    assert list(code_digests(roots, folder)) == [
        "house.models:A",
        "house.models:B",
        "house.models:FAMILIES",
        "house.stages:train",
    ]
    chosen = code_digests(roots, folder, registries=["house.models:FAMILIES"])
    assert list(chosen) == ["house.models:A", "house.stages:train"]
