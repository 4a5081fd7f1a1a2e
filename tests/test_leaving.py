"""A process that ends without being taken apart: threads, exit handlers, output and exit code are as ever."""

import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

MAIN = """
import atexit, sys, threading, time
from genxfer.leaving import end_with

class Remains:
    def __del__(self):
        print("taken apart", file=sys.stderr)

remains = Remains()

def slow():
    time.sleep(0.3)
    print("thread")

def main():
    atexit.register(print, "handler")
    threading.Thread(target=slow).start()
    print("main")
    {ending}

end_with(main)
"""


def run(ending: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", MAIN.format(ending=ending)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("ending", "code"),
    [("return None", 0), ("return 7", 7), ("sys.exit(143)", 143), ("sys.exit()", 0)],
)
def test_threads_and_handlers_end_and_the_code_is_told_without_taking_anything_apart(ending: str, code: int) -> None:
    done = run(ending)
    assert (done.returncode, done.stdout.split(), done.stderr) == (code, ["main", "thread", "handler"], "")


def test_what_nobody_catches_is_a_traceback() -> None:
    done = run("raise ValueError('no')")
    assert (done.returncode, done.stdout.split()) == (1, ["main", "thread", "handler"])
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ValueError: no\n")


def test_a_message_for_an_exit_is_told() -> None:
    done = run("sys.exit('gone wrong')")
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, "gone wrong")


def test_output_that_cannot_be_written_is_no_success() -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" >/dev/full', sys.executable, MAIN.format(ending="return 0")],
        cwd=REPOSITORY,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode != 0
