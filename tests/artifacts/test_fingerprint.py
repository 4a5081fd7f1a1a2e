import enum
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from genxfer.artifacts.atomic import PendingFile
from genxfer.artifacts.fingerprint import (
    MISSING,
    Change,
    build_document,
    canonical_json,
    differences,
    digest_bytes,
    digest_file,
    digest_tree,
    fingerprint,
)

LONG_AGO_S = 1_600_000_000

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
plain = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)
digests = st.dictionaries(
    st.text(min_size=1, max_size=6), st.text("0123456789abcdef", min_size=4, max_size=4), max_size=4
)
documents = st.builds(
    lambda params, inputs, code, libraries: build_document(
        stage="pretrain", params=params, inputs=inputs, code=code, libraries=libraries
    ),
    st.dictionaries(st.text(max_size=6), plain, max_size=4),
    digests,
    digests,
    digests,
)


def shuffled(content, random):
    if isinstance(content, dict):
        items = [(key, shuffled(value, random)) for key, value in content.items()]
        random.shuffle(items)
        return dict(items)
    if isinstance(content, list):
        return tuple(shuffled(value, random) for value in content)
    return content


@settings(deadline=None)
@given(plain)
def test_canonical_json_reads_back_as_what_went_in(content):
    text = canonical_json(content)
    assert json.loads(text) == content
    assert canonical_json(json.loads(text)) == text


@settings(deadline=None)
@given(plain, st.randoms(use_true_random=False))
def test_neither_the_order_of_keys_nor_a_tuple_for_a_list_changes_canonical_json(content, random):
    assert canonical_json(shuffled(content, random)) == canonical_json(content)


def test_canonical_json_has_sorted_keys_and_no_spaces_and_tells_numbers_apart():
    assert canonical_json({"b": [1, 1.0, True], "a": "ü"}) == '{"a":"\\u00fc","b":[1,1.0,true]}'


class Colour(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    "odd", [float("nan"), float("inf"), {1: 2}, {"a": {None: 1}}, b"bytes", {1, 2}, Path("x"), Colour.RED, object()]
)
def test_what_has_no_canonical_form_is_refused_with_its_place(odd):
    with pytest.raises(TypeError, match=r"the document\.outer\[1\]"):
        canonical_json({"outer": [0, odd]})


@settings(deadline=None)
@given(documents, documents)
def test_differences_are_empty_exactly_when_the_fingerprints_are_equal(old, new):
    assert (differences(old, new) == []) == (fingerprint(old) == fingerprint(new))
    assert differences(old, old) == []


@settings(deadline=None)
@given(documents, documents)
def test_differences_reversed_are_the_same_with_old_and_new_swapped(old, new):
    swapped = [Change(change.kind, change.name, change.new, change.old) for change in differences(new, old)]
    assert differences(old, new) == swapped


@settings(deadline=None)
@given(documents, st.text(max_size=6), leaves, leaves)
def test_one_changed_parameter_is_one_change_with_its_old_and_new_value(document, name, old, new):
    assume(canonical_json(old) != canonical_json(new))
    before = document | {"params": document["params"] | {"finetune": {name: old}}}
    after = document | {"params": document["params"] | {"finetune": {name: new}}}
    assert differences(before, after) == [Change("parameter", f"finetune.{name}", old, new)]


def test_differences_name_parameters_inputs_source_files_libraries_and_schema():
    old = build_document(
        stage="finetune",
        params={"finetune": {"freeze": {"discriminator": 1}, "kimg": 30, "thaw_every_kimg": None}},
        inputs={"pretrain": "aa"},
        code={"genxfer.models.dcgan:DCGAN": "11", "genxfer.training.ema": "22"},
        libraries={"torch": "2.14"},
    )
    new = build_document(
        stage="finetune",
        params={"finetune": {"freeze": {"discriminator": 2}, "kimg": 30.0}},
        inputs={"pretrain": "bb"},
        code={"genxfer.models.dcgan:DCGAN": "33"},
        libraries={"torch": "2.15"},
    ) | {"schema": 2}
    assert differences(old, new) == [
        Change("schema", "schema", 1, 2),
        Change("parameter", "finetune.freeze.discriminator", 1, 2),
        Change("parameter", "finetune.kimg", 30, 30.0),
        Change("parameter", "finetune.thaw_every_kimg", None, MISSING),
        Change("source file", "genxfer.models.dcgan:DCGAN", "11", "33"),
        Change("source file", "genxfer.training.ema", "22", MISSING),
        Change("input", "pretrain", "aa", "bb"),
        Change("library", "torch", "2.14", "2.15"),
    ]


def test_an_empty_group_and_a_missing_one_differ():
    assert differences({"params": {"freeze": {}}}, {"params": {}}) == [Change("parameter", "freeze", {}, MISSING)]
    assert differences({"params": {"freeze": {}}}, {"params": {"freeze": {"d": 1}}}) == [
        Change("parameter", "freeze.d", MISSING, 1)
    ]


def test_a_fingerprint_is_the_same_in_another_process():
    document = build_document(
        stage="s", params={"lr": 5e-4, "é": [True]}, inputs={}, code={"b": "1", "a": "2"}, libraries={}
    )
    script = (
        "import json, sys; from genxfer.artifacts import fingerprint as f; print(f.fingerprint(json.load(sys.stdin)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(document),
        env=os.environ | {"PYTHONHASHSEED": "99"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == fingerprint(document)


def make_tree(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        os.utime(folder / name, (LONG_AGO_S, LONG_AGO_S))
    return folder


def test_a_tree_digest_depends_on_names_and_contents_alone(tmp_path):
    first = make_tree(tmp_path / "first", {"a.png": b"1", "sub/b.png": b"2"})
    second = make_tree(tmp_path / "second", {"sub/b.png": b"2", "a.png": b"1"})
    os.utime(second / "a.png")
    assert digest_tree(first) == digest_tree(second)
    renamed = make_tree(tmp_path / "renamed", {"a.png": b"1", "sub/c.png": b"2"})
    edited = make_tree(tmp_path / "edited", {"a.png": b"1", "sub/b.png": b"3"})
    moved = make_tree(tmp_path / "moved", {"sub/a.png": b"1", "b.png": b"2"})
    assert len({digest_tree(folder) for folder in (first, renamed, edited, moved)}) == 4


def test_a_tree_is_followed_through_links_and_not_round_in_circles(tmp_path):
    elsewhere = make_tree(tmp_path / "elsewhere", {"b.png": b"2"})
    folder = make_tree(tmp_path / "folder", {"a.png": b"1"})
    (folder / "sub").symlink_to(elsewhere)
    (folder / "circle").symlink_to(folder)
    before = digest_tree(folder)
    assert before == digest_tree(make_tree(tmp_path / "copy", {"a.png": b"1", "sub/b.png": b"2"}))
    make_tree(elsewhere, {"b.png": b"changed"})
    assert digest_tree(folder) != before


def test_what_is_still_being_written_is_no_part_of_a_tree(tmp_path):
    folder = make_tree(tmp_path / "folder", {"a.png": b"1", ".hidden": b"2"})
    before = digest_tree(folder)
    with PendingFile(folder) as pending:
        pending.write(b"half")
        assert digest_tree(folder) == before
        pending.commit(folder / "b.png")
    assert digest_tree(folder) != before


def test_a_folder_that_is_not_there_is_no_empty_tree(tmp_path):
    with pytest.raises(FileNotFoundError):
        digest_tree(tmp_path / "missing")


def test_a_cached_tree_digest_sees_an_edit_of_the_same_size_and_time(tmp_path):
    folder, cache = make_tree(tmp_path / "folder", {"a.png": b"old", "b.png": b"b"}), tmp_path / "cache.json"
    before = digest_tree(folder, cache)
    assert before == digest_tree(folder, cache) == digest_tree(folder)
    make_tree(folder, {"a.png": b"new"})  # same length, and its time set back to the same second
    assert digest_tree(folder, cache) == digest_tree(folder) != before


def test_the_cache_is_used_for_settled_files_only(tmp_path, monkeypatch):
    folder, cache = make_tree(tmp_path / "folder", {"a.png": b"a"}), tmp_path / "cache.json"
    digest_tree(folder, cache)
    assert not cache.exists()  # written a moment ago: its next edit could fall into the same tick
    monkeypatch.setattr("genxfer.artifacts.fingerprint.YOUNGEST_CACHED_S", -60.0)
    digest = digest_tree(folder, cache)
    assert set(json.loads(cache.read_bytes())) == {"a.png"}
    (entry,) = json.loads(cache.read_bytes()).values()
    cache.write_text(json.dumps({"a.png": [*entry[:-1], digest_bytes(b"other")]}))
    assert digest_tree(folder, cache) != digest  # what the cache says is believed: the file was not read
    cache.write_text("{torn")
    assert digest_tree(folder, cache) == digest


def test_a_file_digest_is_the_digest_of_its_bytes(tmp_path):
    (tmp_path / "x").write_bytes(b"abc" * 1_000_000)
    assert digest_file(tmp_path / "x") == digest_bytes(b"abc" * 1_000_000)
