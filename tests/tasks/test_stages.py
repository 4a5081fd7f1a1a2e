"""Stages as Prefect tasks, run by a real engine against the embedded server; then what the server's database holds."""

import json
import os
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("one_stage.py")

pytestmark = [pytest.mark.slow, pytest.mark.service]


@dataclass
class Outcome:
    """What one_stage.py printed, and the database it left."""

    states: list[dict[str, str]]
    results: list[str]
    error: str
    terminal: str
    database: Path

    def query(self, sql: str) -> list[Any]:
        with sqlite3.connect(self.database) as connection:
            return connection.execute(sql).fetchall()


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("work")
    (folder / "images").mkdir()
    for seed in range(5):
        pixels = np.random.default_rng(seed).integers(0, 256, (32, 32), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{seed}.png")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "GENXFER_"))}
    environment |= {"PREFECT_HOME": str(folder / "prefect"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(SCRIPT), str(folder / "images")]
    done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    first, last = map(json.loads, done.stdout.splitlines())
    return Outcome(first["states"], first["results"], last["error"], done.stderr, folder / "prefect" / "prefect.db")


def test_a_hit_is_a_task_in_state_cached_and_names_the_fingerprint(outcome: Outcome) -> None:
    ran, hit = outcome.states
    assert (ran["name"], hit["name"]) == ("Completed", "Cached")
    assert outcome.results == ["ran", "cached"]
    assert ran["message"] == hit["message"]
    assert len(hit["message"]) == 64


def test_the_server_keeps_the_state_of_every_task(outcome: Outcome) -> None:
    runs = outcome.query("SELECT name, state_name FROM task_run ORDER BY start_time")
    assert [(name.rpartition("-")[0], state) for name, state in runs] == [
        ("dataset_source", "Completed"),
        ("dataset_source", "Cached"),
        ("finetune", "Failed"),
    ]


def test_tasks_that_wait_for_others_are_linked_in_the_graph(outcome: Outcome) -> None:
    rows = outcome.query("SELECT id, task_inputs FROM task_run ORDER BY start_time")
    assert [json.loads(inputs).get("wait_for", []) for _, inputs in rows[:1]] == [[]]
    (link,) = json.loads(rows[1][1])["wait_for"]
    assert link["id"].replace("-", "") == rows[0][0].replace("-", "")


def test_the_library_log_reaches_the_run(outcome: Outcome) -> None:
    messages = outcome.query("SELECT message FROM log WHERE name LIKE 'genxfer.%' AND task_run_id IS NOT NULL")
    assert any("dataset_source" in message for (message,) in messages)


def test_a_failure_the_user_can_mend_is_told_without_a_traceback(outcome: Outcome) -> None:
    assert "finetune needs the result of" in outcome.error
    messages = [message for (message,) in outcome.query("SELECT message FROM log")]
    assert outcome.error in messages
    assert not [message for message in messages if "Traceback" in message]


def test_prefect_is_silent_on_the_terminal(outcome: Outcome) -> None:
    assert "Flow run" not in outcome.terminal
    assert "Task run" not in outcome.terminal
