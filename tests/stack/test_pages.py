"""What people see, in a real browser: a run from Prefect's form, its pictures, the same run again from the store, the
registered version in MLflow, and a run that is cancelled. The full stack runs, with its store on S3.

    GENXFER_WRITE_DOCS=1 pytest tests/stack/test_pages.py

runs the parameters of params.yaml instead of tiny ones (nine minutes) and keeps its screenshots in docs/pages.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect, sync_playwright

from genxfer.metrics.config import EXTRACTORS
from tests.conftest import REPOSITORY, GenxferRun, write_params
from tests.flows.test_no_rank_is_left import everything, ranks
from tests.stack.conftest import Stack, make_stack
from tests.stack.operation import UNFINISHED
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.service, pytest.mark.timeout(1800)]

FOR_DOCS = bool(os.environ.get("GENXFER_WRITE_DOCS"))
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"  # its package: chromium
SEEN_WITHIN_S = 60
TRAINED_WITHIN_S = 900
GONE_WITHIN_S = 20
TWO_RANKS = ("compute.devices=2", "compute.checkpoint_every_s=0.5")
SEED = "7"
LONG_KIMG = "4000"


@pytest.fixture(scope="module")
def stack(make_clone: Callable[..., Path], genxfer: GenxferRun) -> Iterator[Stack]:
    project = make_clone(*TWO_RANKS)
    if FOR_DOCS:
        write_params(project / "params.yaml", TWO_RANKS)
    yield from make_stack(project, genxfer, full=True)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        sandbox = [] if os.geteuid() else ["--no-sandbox"]  # which Chromium refuses to root
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--disable-gpu", *sandbox])
        page = browser.new_page(viewport={"width": 1280, "height": 860}, reduced_motion="reduce")
        page.set_default_timeout(1000 * SEEN_WITHIN_S)
        expect.set_options(1000 * SEEN_WITHIN_S)
        yield page
        browser.close()


@pytest.fixture
def keep(page: Page, tmp_path: Path) -> Callable[[str], None]:
    """Return a function that keeps a screenshot: for the docs when asked for, else for whoever looks into a failure."""
    folder = REPOSITORY / "docs" / "pages" if FOR_DOCS else tmp_path

    def screenshot(name: str) -> None:
        page.screenshot(path=folder / f"{name}.png", animations="disabled")

    return screenshot


def field(page: Page, *names: str) -> Locator:
    """Return the part of the form that is under the labels `names`, from the outermost to the innermost."""
    found = page.locator("main, body").last
    for name in names:
        label = page.get_by_text(re.compile(rf"^{re.escape(name)}( \(Optional\))?$"))
        header = page.locator('xpath=./div[contains(@class, "p-label__header")]').filter(has=label)
        found = found.locator(".schema-form-property").filter(has=header).first
    return found


def open_form(page: Page, stack: Stack) -> None:
    """Open the form of `transfer` as people do: Deployments, the deployment, Run, Custom run."""
    page.goto(f"http://127.0.0.1:{stack.base}/deployments")
    deployment = stack.prefect.ask("/deployments/name/transfer/transfer")["id"]
    page.locator(f'a[href*="{deployment}"]').first.click()  # the flow's name beside it is a link, too
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()
    field(page, "params", "Finetune", "Seed").wait_for()


def fill(page: Page, value: str, *names: str) -> None:
    """Type `value` into the field under the labels `names`, which may be `auto` as yet, and scroll there."""
    kind = field(page, *names).get_by_text(re.compile("^(int|float)$"))
    if kind.count():
        kind.first.click()
    box = field(page, *names).locator("input").first
    box.fill(value)
    box.scroll_into_view_if_needed()


def labels(page: Page, *names: str) -> list[str]:
    """Return the labels of the fields in the section of the form that is under the labels `names`, in their order."""
    _, *inner = field(page, *names).locator(".schema-form-property__label").all_inner_texts()
    return [text.removesuffix(" (Optional)") for text in inner]


def submit(page: Page, stack: Stack) -> str:
    """Submit the form, open the page of the run that it made, and return the run's id."""

    def runs() -> set[str]:
        return {str(run["id"]) for run in stack.prefect.ask("/flow_runs/filter", {})}

    before = runs()
    page.get_by_role("button", name="Submit").click()
    [run] = until(lambda: runs() - before, SEEN_WITHIN_S)
    page.goto(f"http://127.0.0.1:{stack.base}/runs/flow-run/{run}")
    return run


@contextmanager
def resting(page: Page) -> Iterator[None]:
    """Show nothing meanwhile: the timeline of a run under way is drawn again all the time, which takes a core."""
    shown = page.url
    page.goto("about:blank")
    yield
    page.goto(shown)


def wait_for(page: Page, state: str) -> None:
    """Wait until the run whose page is open shows `state`."""
    badge = page.locator("header .state-badge")
    expect(badge).to_have_text(state, timeout=1000 * TRAINED_WITHIN_S)


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tablist").get_by_text(name, exact=True).click()


def task_states(page: Page) -> list[str]:
    """Return the states that the tab Task Runs shows, one for each stage."""
    open_tab(page, "Task Runs")
    badges = page.get_by_role("tabpanel").locator(".state-badge")
    badges.first.wait_for()
    return [text.strip() for text in badges.all_inner_texts()]


def test_the_form_offers_choices_and_what_is_out_of_range_is_refused(
    page: Page, stack: Stack, keep: Callable[[str], None]
) -> None:
    open_form(page, stack)
    assert labels(page, "params", "Finetune")[:4] == ["Kimg", "Batch", "Lr", "Seed"]  # PostgreSQL sorts them by length
    field(page, "params", "Evaluate", "Extractor").locator(".p-select-button__control").press("ArrowDown")
    choices = page.locator(".p-select-option")
    choices.first.wait_for()
    assert choices.all_inner_texts() == list(EXTRACTORS)
    choices.filter(has_text="pixels").click()
    fill(page, "7000", "params", "Dataset", "Resolution Px")
    before = stack.prefect.ask("/flow_runs/count", {})
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("7000 is greater than the maximum of 256").first.wait_for()
    keep("refused")
    assert stack.prefect.ask("/flow_runs/count", {}) == before


def test_a_run_from_the_form_ends_with_a_grid_of_samples(page: Page, stack: Stack, keep: Callable[[str], None]) -> None:
    open_form(page, stack)
    fill(page, SEED, "params", "Finetune", "Seed")
    keep("form")
    run = submit(page, stack)
    wait_for(page, "Running")
    with resting(page):
        until(lambda: stack.prefect.ask(f"/flow_runs/{run}")["state"]["type"] not in UNFINISHED, TRAINED_WITHIN_S)
    wait_for(page, "Completed")
    page.get_by_text("Beginning flow run").first.wait_for()
    keep("run")
    assert stack.prefect.ask(f"/flow_runs/{run}")["parameters"]["params"]["finetune"]["seed"] == int(SEED)
    open_tab(page, "Artifacts")
    page.get_by_role("tabpanel").get_by_text("samples", exact=True).click()
    grid = page.locator('img[alt="transferred"]')
    grid.scroll_into_view_if_needed()
    assert grid.evaluate("image => image.complete && image.naturalWidth") >= 8 * 16, "eight samples in a row"
    keep("samples")


def test_the_same_run_again_is_cached(page: Page, stack: Stack, keep: Callable[[str], None]) -> None:
    open_form(page, stack)
    fill(page, SEED, "params", "Finetune", "Seed")
    submit(page, stack)
    wait_for(page, "Completed")
    assert task_states(page)[-7:] == ["Cached"] * 7
    page.reload()  # the timeline of a run of seconds is empty in the page that saw it begin
    wait_for(page, "Completed")
    keep("cached")


def test_mlflow_shows_the_version_its_numbers_and_its_picture(
    page: Page, stack: Stack, keep: Callable[[str], None]
) -> None:
    page.goto(f"{stack.mlflow_url}/#/models/genxfer/versions/1")
    expect(page.get_by_text("challenger")).to_be_visible()
    page.locator('[data-component-id="mlflow.assistant.chat_panel.close"]').first.click()  # a quarter of the page
    keep("version")
    page.get_by_role("link", name="register", exact=True).click()
    page.get_by_placeholder("Search metrics").fill("kid")
    expect(page.get_by_text(re.compile("^kid_scratch")).first).to_be_visible()
    page.get_by_role("tab", name="Artifacts").or_(page.get_by_role("link", name="Artifacts")).first.click()
    page.get_by_text("samples.png").first.click()
    picture = page.locator("img[src^=blob], img[src*=samples]").first
    expect(picture).to_be_visible()
    until(lambda: picture.evaluate("image => image.complete && image.naturalWidth"), SEEN_WITHIN_S)
    keep("registered_samples")


def test_a_run_cancelled_in_the_page_leaves_no_rank_and_the_next_goes_on(
    page: Page, stack: Stack, keep: Callable[[str], None]
) -> None:
    checkpoints = stack.project / ".genxfer"
    for number in range(2):
        open_form(page, stack)
        fill(page, "3", "params", "Pretrain", "Seed")
        fill(page, LONG_KIMG, "params", "Pretrain", "Kimg")
        submit(page, stack)
        with resting(page):
            until(lambda: len(ranks(stack.project)) == 2 and list(checkpoints.rglob("checkpoint-*")), TRAINED_WITHIN_S)
        if number:
            page.get_by_text("going on from the checkpoint").first.wait_for(timeout=1000 * TRAINED_WITHIN_S)
        page.get_by_role("button", name="Cancel").first.click()
        page.get_by_role("dialog").get_by_role("button", name="Confirm").click()
        until(lambda: not ranks(stack.project), GONE_WITHIN_S)
        wait_for(page, "Cancelled")
        until(lambda: not everything(stack.project), SEEN_WITHIN_S)
    keep("cancelled")
