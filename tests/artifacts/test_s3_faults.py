"""What happens to a store on S3 when something fails, against a real server; each outcome is a row of docs/s3.md.

Every fault ends in a success or in an error that says what to do, never in a wrong or a lost artifact. The page has to
agree with what happens here; `GENXFER_WRITE_DOCS=1 python -m pytest tests/artifacts/test_s3_faults.py` writes it anew.
"""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.artifacts.s3_faults import FAULTS, MISTAKES, OWN_SERVER, TITLES, server_disk_full, title_of
from tests.artifacts.s3_scene import Scene
from tests.artifacts.stores import S3Kind
from tests.conftest import REPOSITORY, not_possible_here
from tests.seaweed import SECRET, Seaweed, environment_for

pytestmark = [pytest.mark.service, pytest.mark.slow]

PAGE = REPOSITORY / "docs" / "s3.md"
MARKS = "<!-- faults: written by tests/artifacts/test_s3_faults.py -->", "<!-- end of faults -->"


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """A server to harm."""
    server = Seaweed(tmp_path_factory.mktemp("own_seaweed"))
    try:
        server.start().client().create_bucket(Bucket="bucket")
        yield server
    finally:
        server.kill()


@pytest.fixture
def server_disk(tmp_path) -> Iterator[Path]:
    """A disk for a server, small enough to be filled."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(folder)], capture_output=True
    ).returncode:
        not_possible_here("mounting a disk to fill is for root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def server_on_small_disk(server_disk, tmp_path) -> Iterator[Seaweed]:
    server = Seaweed(tmp_path / "server_on_small_disk", server_disk)
    try:
        server.start().client().create_bucket(Bucket="bucket")
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def page() -> Iterator[Callable[[str, str], None]]:
    """Return what compares a fault's outcome with the page; or, when asked to, writes the page in the end."""
    writing = os.environ.get("GENXFER_WRITE_DOCS") == "1"
    outcomes: dict[str, str] = dict(read_table(PAGE.read_text()))

    def compare(title: str, outcome: str) -> None:
        if not writing:
            assert outcomes.get(title) == outcome
        outcomes[title] = outcome

    yield compare
    if writing:
        head, _, rest = PAGE.read_text().partition(MARKS[0])
        rows = [f"| {title} | {outcomes[title]} |" for title in TITLES if title in outcomes]
        table = "\n".join(["| fault | outcome |", "|---|---|", *rows])
        PAGE.write_text(f"{head}{MARKS[0]}\n\n{table}\n\n{MARKS[1]}{rest.partition(MARKS[1])[2]}")


def read_table(text: str) -> list[tuple[str, str]]:
    table = text.partition(MARKS[0])[2].partition(MARKS[1])[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    return [(title, outcome) for title, outcome in rows[2:]]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_ends_as_the_page_says(fault, request, page, monkeypatch, caplog, tmp_path):
    s3: S3Kind = request.getfixturevalue("s3")
    server: Seaweed = request.getfixturevalue("seaweed")
    if fault in OWN_SERVER or fault is server_disk_full:
        server = request.getfixturevalue("own_server" if fault in OWN_SERVER else "server_on_small_disk")
        s3 = S3Kind(s3.location, tmp_path / "hosts", server.client())
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    page(title_of(fault), fault(Scene(request, monkeypatch, caplog, tmp_path, s3, server)))


@pytest.mark.parametrize("title", MISTAKES)
def test_a_mistake_ends_with_the_exit_code_of_the_store_and_its_message_alone(title, page, seaweed, workspace, genxfer):
    environment = environment_for(seaweed.endpoint) | {"GENXFER_STORE": "s3://bucket/prefix"}
    environment |= {name: value for name, value in MISTAKES[title].items() if value is not None}
    kept = {name: value for name, value in environment.items() if MISTAKES[title].get(name, "") is not None}
    done = genxfer(workspace, "plan", **kept)
    assert done.returncode == 4
    assert "Traceback" not in done.stderr
    for secret in (SECRET, "not-the-secret"):
        assert secret not in done.stdout + done.stderr
    message = [line for line in done.stderr.splitlines() if line.startswith("genxfer: ")][-1].removeprefix("genxfer: ")
    page(title, f"error: {re.sub(r'http://127.0.0.1:[0-9]+', 'http://HOST:PORT', message)}")


def test_the_page_has_a_row_for_each_fault():
    if os.environ.get("GENXFER_WRITE_DOCS") == "1":
        pytest.skip("the page is being written")
    assert [title for title, _ in read_table(PAGE.read_text())] == TITLES
