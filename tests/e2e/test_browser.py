"""Airflow's UI in a real Chromium, used as a person uses it.

The tests trigger a run, watch it, approve it, read its logs and pages, and roll back. They leave screenshots in
`var/screenshots`, or in the folder that the environment variable SCREENSHOTS names.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import FrameLocator, Page, expect, sync_playwright

from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.run_parameters import rollback_form, run_form
from mnist_tasks.workspace import PROJECT, Workspace
from tests.helpers import ANYTHING, HANG_SECONDS, password, served

CHROMIUM = shutil.which("chromium")
SCREENSHOTS = Path(os.environ.get("SCREENSHOTS", PROJECT / "var" / "screenshots"))
SECTIONS = run_form() | rollback_form()
TASKS = ("load", "normalize", "train", "evaluate", "approve", "promote")
COMMENT = "the sevens look good"

# Levels A and AA of the Web Content Accessibility Guidelines, as axe-core calls them.
ACCESSIBILITY = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
OPEN_ALL = "document.querySelectorAll('details').forEach(element => { element.open = true; })"
# Scripts for a page: the number of elements that the keyboard must reach; the element with the focus, and whether the
# focus is visible.
FOCUSABLE = "a[href], summary, [tabindex], button, input, select, textarea"
REACHABLE = f"""() => [...document.querySelectorAll('{FOCUSABLE}')].filter(element =>
  element.getClientRects().length).length"""
FOCUSED = f"""() => {{
  const here = document.activeElement, style = getComputedStyle(here);
  const seen = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1;
  return [[...document.querySelectorAll('*')].indexOf(here), here.matches('{FOCUSABLE}'), seen];
}}"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed: apt-get install chromium"),
]

expect.set_options(timeout=1000 * HANG_SECONDS)


class Ui:
    """A logged-in browser window, and the workspace of the Airflow that it shows."""

    def __init__(self, page: Page, url: str, home: Workspace, source: Path) -> None:
        self.page, self.url, self.home, self.source = page, url, home, source

    def shoot(self, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")

    def open_form(self, dag_id: str) -> None:
        """Open the trigger form of a DAG."""
        self.page.goto(f"{self.url}/dags/{dag_id}")
        self.page.get_by_role("button", name="Trigger").first.click()
        expect(self.page.get_by_role("dialog")).to_be_visible()

    def fill(self, **values: object) -> None:
        """Fill in fields of the form, which shows only one section at a time."""
        sections = {name: section for section, fields in SECTIONS.items() for name in fields}
        for name, value in sorted(values.items(), key=lambda item: list(sections).index(item[0])):
            header = self.page.get_by_role("dialog").get_by_role("button", name=sections[name], exact=True)
            if header.get_attribute("aria-expanded") == "false":
                header.click()
            self.page.locator(f"[name=element_{name}]").fill(str(value))

    def send(self) -> None:
        self.page.get_by_role("dialog").get_by_role("button", name="Trigger").last.click()

    def train(self, answer: str | None = "Approve", **values: object) -> str:
        """Trigger a training through the form, answer the question, and wait until the run has ended.

        Args:
            answer: the button to press; None if the gate rejects the candidate, so that nobody is asked.
            values: the fields to fill in.

        Returns:
            The id of the run.
        """
        earlier_ids = {path.name for path in (self.home.root / "runs").iterdir()}
        self.open_form("mnist_training")
        self.fill(source=self.source, epochs=1, **{**ANYTHING, **values})
        self.send()
        run_id = self.run_id("mnist_training")
        assert run_id not in earlier_ids
        if answer:
            self.answer(run_id, answer)
        self.wait_for_the_run("mnist_training", run_id)
        return run_id

    def run_id(self, dag_id: str) -> str:
        """Wait until the window shows a run; return the id of the run."""
        self.page.wait_for_url(re.compile(rf"{dag_id}/runs/manual__"))
        return unquote(self.page.url.partition("/runs/")[2].partition("/")[0].partition("?")[0])

    def answer(self, run_id: str, option: str) -> None:
        """Answer, with a comment, whether to approve the candidate of a run."""
        asked = self.wait_for(f"{api_path('mnist_training', run_id)}/taskInstances/approve", "awaiting_input", "failed")
        assert asked == "awaiting_input"
        # A person reads the question first. If the answer comes within about a second, the scheduler has not yet seen
        # that the task waits. The task then loses a try and half a minute.
        self.page.wait_for_timeout(3000)
        # The address that the notification links to.
        run = f"{self.url}/dags/mnist_training/runs/{run_id.replace('+', '%2B')}"
        self.page.goto(f"{run}/tasks/approve/required_actions")
        expect(self.page.get_by_text("reaches the minimum of").first).to_be_visible()
        self.page.locator("[name=element_comment]").fill(COMMENT)
        self.shoot("approval")
        self.page.get_by_role("button", name=option, exact=True).click()

    def wait_for_the_run(self, dag_id: str, run_id: str) -> None:
        """Wait until a run has ended; check that it was successful."""
        assert self.wait_for(api_path(dag_id, run_id), "success", "failed") == "success"

    def wait_for(self, path: str, *states: str) -> str:
        """Wait until the object at an API path has one of the states. The page sends the requests, as the UI does."""
        for _ in range(2 * HANG_SECONDS):
            found = self.page.evaluate("path => fetch(path).then(answer => answer.json())", path)
            if found["state"] in states:
                return str(found["state"])
            self.page.wait_for_timeout(500)
        raise AssertionError(f"{path} is still {found['state']} after {HANG_SECONDS} s")

    def model_tab(self, run_id: str) -> FrameLocator:
        self.page.goto(f"{self.url}/dags/mnist_training/runs/{run_id.replace('+', '%2B')}/plugin/mnist-run")
        return self.page.frame_locator("iframe[title=Model]")

    def models(self) -> FrameLocator:
        self.page.goto(f"{self.url}/plugin/mnist-models")
        return self.page.frame_locator("iframe[title=Models]")


# Marks the run at an API path as failed, which ends its tasks.
FAIL = """path => fetch(path, {
    method: "PATCH", headers: {"Content-Type": "application/json"}, body: JSON.stringify({state: "failed"}),
})"""


def api_path(dag_id: str, run_id: str) -> str:
    return f"/api/v2/dags/{dag_id}/dagRuns/{run_id.replace('+', '%2B')}"


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory, npz: Path) -> Iterator[Ui]:
    home = Workspace(tmp_path_factory.mktemp("home"))
    with served(home, MNIST_SCHEDULE="", MNIST_APPROVAL="1h") as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        context.set_default_timeout(1000 * HANG_SECONDS)
        page = context.new_page()
        page.goto(url)
        page.fill("input[name=username]", "admin")
        page.fill("input[name=password]", password(home))
        page.keyboard.press("Enter")
        expect(page.get_by_role("link", name="Dags").first).to_be_visible()
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        yield Ui(page, url, home, npz)
        assert [text for text in problems if "/mnist/" in text or "Content Security Policy" in text] == []
        browser.close()


@pytest.fixture(scope="module")
def first_run(ui: Ui) -> str:
    """A run that was approved and promoted."""
    return ui.train()


@pytest.fixture(scope="module")
def second_run(ui: Ui, first_run: str) -> str:
    """Another one after it."""
    assert first_run
    return ui.train(seed=7)


def test_a_bad_value_is_refused_before_a_run_starts(ui: Ui) -> None:
    ui.open_form("mnist_training")
    for section in run_form():
        expect(ui.page.get_by_role("dialog").get_by_role("button", name=section, exact=True)).to_be_visible()
    trigger = ui.page.get_by_role("dialog").get_by_role("button", name="Trigger").last
    expect(trigger).to_be_enabled()  # the defaults alone are enough

    ui.fill(min_accuracy=97)
    ui.page.keyboard.press("Tab")
    expect(ui.page.locator("[name=element_min_accuracy]")).to_have_value("97")
    ui.send()
    expect(ui.page.get_by_text("97 is greater than the maximum of 1").first).to_be_visible()
    ui.fill(source="")
    expect(trigger).to_be_disabled()


def test_the_approval_is_in_the_decision_the_history_and_on_the_page(ui: Ui, first_run: str) -> None:
    decision = json.loads((ui.home.run(first_run) / "decision.json").read_text())
    (event,) = ModelDirectory(ui.home.models).history()

    assert (decision["approval"]["by"], decision["approval"]["comment"]) == ("admin", COMMENT)
    assert event.approved_by == "admin"
    assert event.reason.endswith(f"approved by admin: {COMMENT}")
    expect(ui.model_tab(first_run).get_by_text(f"approved by admin: {COMMENT}").first).to_be_visible()


def test_a_button_at_promote_leads_to_the_model(ui: Ui, first_run: str) -> None:
    ui.page.goto(f"{ui.url}/dags/mnist_training/runs/{first_run.replace('+', '%2B')}/tasks/promote/details")
    ui.page.get_by_role("link", name="Model", exact=True).click()

    expect(ui.page.frame_locator("iframe[title=Model]").get_by_text("Promoted as")).to_be_visible()


def test_the_log_of_each_task_has_no_error_line_and_folds_the_details(ui: Ui, first_run: str) -> None:
    for task in TASKS:
        ui.page.goto(f"{ui.url}/dags/mnist_training/runs/{first_run.replace('+', '%2B')}/tasks/{task}")
        # Airflow shows a task that asks a question as two tries; the log of the second one has the answer.
        last = "approved by admin" if task == "approve" else f"{task} took"
        expect(ui.page.get_by_text(last).first).to_be_visible()
        if task != "approve":
            expect(ui.page.get_by_text(re.compile("^reading|: reading")).first).to_be_visible()
        expect(ui.page.get_by_text(re.compile(r"\bERROR\b")).filter(visible=True)).to_have_count(0)
        if task == "train":
            expect(ui.page.get_by_text("the recipe").first).to_be_visible()
            expect(ui.page.get_by_text("hidden_units: 128")).not_to_be_visible()
    for log in (ui.home.root / "airflow" / "logs").glob("dag_id=mnist_training/*/task_id=*/attempt=*.log"):
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert [line["event"] for line in lines if line["level"] in ("warning", "error", "critical")] == [], log


def test_the_model_tab_shows_the_decision_the_checks_and_every_figure(ui: Ui, first_run: str) -> None:
    frame = ui.model_tab(first_run)

    expect(frame.get_by_text("Promoted as")).to_be_visible()
    expect(frame.get_by_role("region", name="Checks closest to their bounds")).to_be_visible()
    images = frame.locator("img")
    # Four figures of the evaluation, as without a champion two are missing, and the mean digits of the data.
    expect(images).to_have_count(5)
    for number in range(5):
        images.nth(number).scroll_into_view_if_needed()
        assert images.nth(number).evaluate("image => image.decode().then(() => image.naturalWidth)") > 500
    for number, metric in enumerate(("accuracy", "loss")):
        expect(frame.locator(".plot").nth(number).locator(".u-legend")).to_contain_text(metric)
    ui.shoot("run")


def test_links_in_the_frame_lead_to_airflows_own_pages(ui: Ui, first_run: str) -> None:
    ui.models().locator(f"a[title='{first_run}']").first.click()

    ui.page.wait_for_url(re.compile(r"/dags/mnist_training/runs/"))


def test_the_models_page_shows_the_champion_and_gives_its_file(ui: Ui, first_run: str) -> None:
    assert first_run
    frame = ui.models()

    expect(frame.get_by_role("heading", name="Champion: version 1")).to_be_visible()
    chart = frame.get_by_role("group", name=re.compile("Test accuracy of each version"))
    chart.press("ArrowLeft")
    expect(chart.locator(".u-legend")).to_contain_text(re.compile(r"version1accuracy0\.\d{4}"))
    with ui.page.expect_download() as download:
        frame.get_by_role("link", name="Download model.keras").click()
    assert Path(download.value.path()).read_bytes() == (ui.home.models / "champion" / "model.keras").read_bytes()
    ui.shoot("models")


def test_a_rejected_run_says_why(ui: Ui, first_run: str) -> None:
    assert first_run
    frame = ui.model_tab(ui.train(answer=None, min_accuracy=0.99))

    expect(frame.get_by_text(re.compile(r"Rejected: accuracy 0\.\d+ is below the minimum of 0\.9900"))).to_be_visible()
    ui.shoot("rejected")


def test_a_rollback_through_the_form_changes_the_champion(ui: Ui, second_run: str) -> None:
    assert second_run
    expect(ui.models().get_by_role("heading", name="Champion: version 2")).to_be_visible()

    ui.open_form("mnist_rollback")
    ui.fill(reason="it was bad")
    ui.send()
    ui.wait_for_the_run("mnist_rollback", ui.run_id("mnist_rollback"))

    frame = ui.models()
    expect(frame.get_by_role("heading", name="Champion: version 3")).to_be_visible()
    expect(frame.get_by_role("region", name="Who was champion when").get_by_text("it was bad")).to_be_visible()
    assert ModelDirectory(ui.home.models).history()[-1].reason == "it was bad"
    ui.shoot("models-after-rollback")


def test_a_rollback_begins_at_the_row_of_a_version(ui: Ui, second_run: str) -> None:
    assert second_run
    before = ModelDirectory(ui.home.models).champion()
    frame = ui.models()
    frame.get_by_role("button", name="Roll back to version 1").click()
    frame.get_by_label("Reason").fill("Ada: the first one again")
    ui.shoot("rollback-from-the-row")
    frame.get_by_role("button", name="Trigger mnist_rollback").click()
    ui.wait_for_the_run("mnist_rollback", ui.run_id("mnist_rollback"))

    after = ModelDirectory(ui.home.models).champion()
    assert before
    assert after
    assert after.metadata().restores == 1
    assert ModelDirectory(ui.home.models).history()[-1].reason == "Ada: the first one again"
    tab = ui.page.frame_locator("iframe[title=Model]")
    words = f"Version {after.number} became champion: version 1 again, instead of version {before.number}."
    expect(tab.get_by_text(words)).to_be_visible()


def test_versions_are_searched_sorted_and_compared(ui: Ui, second_run: str) -> None:
    frame = ui.models()
    rows = frame.get_by_role("region", name="Versions", exact=True).locator("tbody tr:visible")
    expect(rows.first).to_be_visible()
    all_rows = rows.count()
    assert all_rows >= 2
    frame.get_by_label("Search").fill(second_run)
    expect(frame.get_by_text(re.compile(rf"of {all_rows} versions"))).to_be_visible()
    assert 1 <= rows.count() < all_rows
    frame.get_by_label("Search").fill("")
    frame.get_by_role("button", name=re.compile("^Version")).click()
    frame.get_by_role("button", name=re.compile("^Version")).click()
    expect(rows.first.get_by_role("link").first).to_have_text("1")
    frame.get_by_label("Compare version 1").check()
    frame.get_by_label("Compare version 2").check()
    frame.get_by_role("button", name="Compare two").click()
    expect(frame.get_by_role("heading", name="Version 1 and Version 2")).to_be_visible()
    ui.shoot("compare")
    image = frame.get_by_role("img", name=re.compile("^Test image")).first
    image.scroll_into_view_if_needed()
    expect(image).to_be_visible()
    expect(frame.get_by_text("mistakes.json")).to_have_count(0)


def test_a_long_epoch_is_followed_in_a_chart(ui: Ui, first_run: str) -> None:
    assert first_run
    ui.open_form("mnist_training")
    ui.fill(source="builtin", epochs=3, batch_size=1)
    ui.send()
    run_id = ui.run_id("mnist_training")
    try:
        frame = ui.model_tab(run_id)
        expect(frame.get_by_text(re.compile("Epoch [123] of 3: .* of 60,000 images"))).to_be_visible()
        expect(frame.get_by_role("group", name=re.compile("^Loss within the epochs")).locator("canvas")).to_be_visible()
        ui.shoot("training-now")
    finally:
        ui.page.evaluate(FAIL, api_path("mnist_training", run_id))
        ui.wait_for(api_path("mnist_training", run_id), "failed")


def test_a_note_is_written_in_the_frame(ui: Ui, first_run: str) -> None:
    assert first_run
    frame = ui.models()
    frame.get_by_role("link", name="version", exact=False).first.click()
    frame.get_by_text("Write", exact=True).click()
    frame.get_by_label("Note").fill("<b>Keep</b> it until May")
    frame.get_by_role("button", name="Add note").click()
    expect(frame.get_by_text("<b>Keep</b> it until May")).to_be_visible()
    expect(frame.get_by_text(re.compile("^admin, 20"))).to_be_visible()


def test_a_failed_run_says_why_before_anything_else(ui: Ui, first_run: str) -> None:
    assert first_run
    ui.open_form("mnist_training")
    ui.fill(source="/nowhere/digits.npz")
    ui.send()
    run_id = ui.run_id("mnist_training")
    assert ui.wait_for(api_path("mnist_training", run_id), "success", "failed") == "failed"

    frame = ui.model_tab(run_id)
    expect(frame.get_by_text(re.compile(r"load failed: .*/nowhere/digits\.npz"))).to_be_visible()
    ui.shoot("failed")
    frame.get_by_role("link", name="Log of load").click()
    ui.page.wait_for_url(re.compile(r"/tasks/load\?try_number=1"))
    expect(ui.page.get_by_text("/nowhere/digits.npz").first).to_be_visible()
    expect(ui.page.get_by_text("Traceback")).to_have_count(0)
    frame = ui.models()
    expect(frame.get_by_role("region", name="The last runs").get_by_text("load: ").first).to_be_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_pages_follow_airflows_theme_fit_a_phone_and_are_for_everybody(
    theme: Literal["light", "dark"], ui: Ui, first_run: str, second_run: str
) -> None:
    """No violation of WCAG's levels A and AA is found; the keyboard reaches everything, with a visible focus."""
    assert second_run
    ui.page.evaluate("theme => localStorage.setItem('theme', theme)", theme)
    frame = ui.model_tab(first_run)
    expect(frame.locator("html")).to_have_class("dark" if theme == "dark" else "")
    ui.shoot(f"run-{theme}")

    phone = ui.page.context.new_page()
    phone.set_viewport_size({"width": 390, "height": 800})
    phone.emulate_media(color_scheme=theme)
    run = first_run.replace("+", "%2B")
    paths = {
        "models": "models",
        "version": "models/1",
        "compare": "compare?of=1&of=2",
        "run": f"runs/mnist_training/{run}",
        "missing": "models/999",
    }
    for name, path in paths.items():
        phone.goto(f"{ui.url}/mnist/{path}")
        expect(phone.get_by_role("heading", level=1)).to_be_visible()
        expect(phone.locator("html")).to_have_class("dark" if theme == "dark" else "")
        assert phone.evaluate("document.documentElement.scrollWidth") <= 390
        phone.screenshot(path=SCREENSHOTS / f"phone-{theme}-{name}.png")
        phone.evaluate(OPEN_ALL)
        found = Axe().run(phone, options=ACCESSIBILITY)
        assert found.violations_count == 0, (path, found.generate_report())
        reached = set()
        for _ in range(phone.evaluate(REACHABLE)):
            phone.keyboard.press("Tab")
            element, expected, seen = phone.evaluate(FOCUSED)
            assert (expected, seen) == (True, True), (path, element)
            reached.add(element)
        assert len(reached) == phone.evaluate(REACHABLE), path
    phone.close()
