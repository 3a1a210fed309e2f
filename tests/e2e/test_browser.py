"""Airflow's UI in a real Chromium, as a person uses it: trigger, watch, read, look at the models, roll back.

Screenshots are left in `var/screenshots`, or in the folder that the environment variable SCREENSHOTS names.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from playwright.sync_api import FrameLocator, Page, expect, sync_playwright

from mnist_tasks import config
from mnist_tasks.config import RollbackConfig
from mnist_tasks.registry import ModelDirectory
from mnist_tasks.workspace import PROJECT, Workspace
from tests.helpers import ANYTHING, free_port

CHROMIUM = shutil.which("chromium")
SCREENSHOTS = Path(os.environ.get("SCREENSHOTS", PROJECT / "var" / "screenshots"))
SECTIONS = config.form() | RollbackConfig.form()
RUN_SECONDS = 120  # a run of the small set takes some 15 s on an idle machine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed: apt-get install chromium"),
]

expect.set_options(timeout=20_000)


class Ui:
    """A logged-in browser window, and the workspace of the Airflow that it looks at."""

    def __init__(self, page: Page, url: str, home: Workspace, source: Path) -> None:
        self.page, self.url, self.home, self.source = page, url, home, source

    def shoot(self, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")

    def open_form(self, dag_id: str) -> None:
        """Open a DAG's trigger form."""
        self.page.goto(f"{self.url}/dags/{dag_id}")
        self.page.get_by_role("button", name="Trigger").first.click()
        expect(self.page.get_by_role("dialog")).to_be_visible()

    def fill(self, **values: object) -> None:
        """Fill in fields; of their sections the form shows one at a time."""
        sections = {name: section for section, fields in SECTIONS.items() for name in fields}
        for name, value in sorted(values.items(), key=lambda item: list(sections).index(item[0])):
            header = self.page.get_by_role("dialog").get_by_role("button", name=sections[name])
            if header.get_attribute("aria-expanded") == "false":
                header.click()
            self.page.locator(f"[name=element_{name}]").fill(str(value))

    def send(self) -> None:
        self.page.get_by_role("dialog").get_by_role("button", name="Trigger").last.click()

    def train(self, **values: object) -> str:
        """Trigger a training through the form, and wait until the run has ended; its id."""
        known = {path.name for path in (self.home.root / "runs").iterdir()}
        self.open_form("mnist_training")
        self.fill(source=self.source, epochs=1, **{**ANYTHING, **values})
        self.send()
        run_id = self.wait_for_the_run("mnist_training")
        assert run_id not in known
        return run_id

    def wait_for_the_run(self, dag_id: str) -> str:
        """Wait until the run that the window shows has ended well, by asking as the window itself does; its id."""
        self.page.wait_for_url(re.compile(rf"{dag_id}/runs/manual__"), timeout=30_000)
        run_id = unquote(self.page.url.partition("/runs/")[2].partition("/")[0].partition("?")[0])
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id.replace('+', '%2B')}"
        for _ in range(2 * RUN_SECONDS):
            run = self.page.evaluate("path => fetch(path).then(answer => answer.json())", path)
            if run["end_date"]:
                break
            self.page.wait_for_timeout(500)
        assert run["state"] == "success"
        return run_id

    def model_tab(self, run_id: str) -> FrameLocator:
        self.page.goto(f"{self.url}/dags/mnist_training/runs/{run_id.replace('+', '%2B')}/plugin/mnist-run")
        return self.page.frame_locator("iframe[title=Model]")

    def models(self) -> FrameLocator:
        self.page.goto(f"{self.url}/plugin/mnist-models")
        return self.page.frame_locator("iframe[title=Models]")


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory, npz: Path) -> Iterator[Ui]:
    home, port = Workspace(tmp_path_factory.mktemp("home")), free_port()
    process = subprocess.Popen(
        [sys.executable, str(PROJECT / "scripts" / "up.py")],
        env={**os.environ, "MNIST_HOME": str(home.root), "MNIST_SCHEDULE": "", "PORT": str(port)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout
        assert any("password" in line for line in process.stdout)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
            )
            page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
            url = f"http://127.0.0.1:{port}"
            page.goto(url)
            page.fill("input[name=username]", "admin")
            passwords = json.loads((home.root / "airflow" / "passwords.json").read_text())
            page.fill("input[name=password]", passwords["admin"])
            page.keyboard.press("Enter")
            expect(page.get_by_role("link", name="Dags").first).to_be_visible()
            problems: list[str] = []
            page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
            yield Ui(page, url, home, npz)
            assert [text for text in problems if "/mnist/" in text or "Content Security Policy" in text] == []
            browser.close()
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def first_run(ui: Ui) -> str:
    """A run that was promoted."""
    return ui.train()


def test_a_bad_value_is_refused_before_a_run_starts(ui: Ui) -> None:
    ui.open_form("mnist_training")
    for section in ("Data", "Model", "Training", "Gate"):
        expect(ui.page.get_by_role("dialog").get_by_role("button", name=section)).to_be_visible()
    trigger = ui.page.get_by_role("dialog").get_by_role("button", name="Trigger").last
    expect(trigger).to_be_enabled()  # the defaults alone are enough

    ui.fill(min_accuracy=97)
    ui.page.keyboard.press("Tab")
    expect(ui.page.locator("[name=element_min_accuracy]")).to_have_value("1")  # its upper bound
    ui.fill(source="")
    expect(trigger).to_be_disabled()


def test_the_log_of_each_task_has_no_error_line_and_folds_the_details(ui: Ui, first_run: str) -> None:
    for task in ("load", "normalize", "train", "evaluate", "promote"):
        ui.page.goto(f"{ui.url}/dags/mnist_training/runs/{first_run.replace('+', '%2B')}/tasks/{task}")
        expect(ui.page.get_by_text(f"{task} took").first).to_be_visible()
        expect(ui.page.get_by_text("reading" if task != "promote" else "promoted as version").first).to_be_visible()
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
    expect(frame.get_by_role("region", name="Checks of the gate").get_by_text("min_accuracy").first).to_be_visible()
    images = frame.locator("img")
    expect(images).to_have_count(3)
    for number in range(3):
        images.nth(number).scroll_into_view_if_needed()
        assert images.nth(number).evaluate("image => image.decode().then(() => image.naturalWidth)") > 500
    ui.shoot("run")


def test_links_in_the_frame_lead_to_airflows_own_pages(ui: Ui, first_run: str) -> None:
    ui.model_tab(first_run).get_by_role("link", name="evaluate").click()

    ui.page.wait_for_url(re.compile(r"/tasks/evaluate"))


def test_the_models_page_shows_the_champion_and_gives_its_file(ui: Ui, first_run: str) -> None:
    assert first_run
    frame = ui.models()

    expect(frame.get_by_role("heading", name="Champion: version 1")).to_be_visible()
    expect(frame.get_by_role("img", name=re.compile("Test accuracy of each version"))).to_be_visible()
    with ui.page.expect_download() as download:
        frame.get_by_role("link", name="Download model.keras").click()
    assert Path(download.value.path()).read_bytes() == (ui.home.models / "champion" / "model.keras").read_bytes()
    ui.shoot("models")


def test_a_rejected_run_says_why(ui: Ui, first_run: str) -> None:
    assert first_run
    frame = ui.model_tab(ui.train(min_accuracy=0.99))

    expect(frame.get_by_text(re.compile(r"Rejected\. accuracy 0\.\d+ is below the minimum of 0\.9900"))).to_be_visible()
    ui.shoot("rejected")


def test_a_rollback_through_the_form_changes_the_champion(ui: Ui, first_run: str) -> None:
    assert first_run
    ui.train(seed=7)
    expect(ui.models().get_by_role("heading", name="Champion: version 2")).to_be_visible()

    ui.open_form("mnist_rollback")
    ui.fill(reason="it was bad")
    ui.send()
    ui.wait_for_the_run("mnist_rollback")

    frame = ui.models()
    expect(frame.get_by_role("heading", name="Champion: version 3")).to_be_visible()
    expect(frame.get_by_role("region", name="Who was champion when").get_by_text("it was bad")).to_be_visible()
    assert ModelDirectory(ui.home.models).history()[-1]["reason"] == "it was bad"
    ui.shoot("models-after-rollback")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_pages_follow_airflows_theme_and_fit_a_phone(theme: str, ui: Ui, first_run: str) -> None:
    ui.page.evaluate("theme => localStorage.setItem('theme', theme)", theme)
    frame = ui.model_tab(first_run)
    expect(frame.locator("html")).to_have_class("dark" if theme == "dark" else "")
    ui.shoot(f"run-{theme}")

    phone = ui.page.context.new_page()
    phone.set_viewport_size({"width": 390, "height": 800})
    for path in ("/mnist/models", f"/mnist/runs/mnist_training/{first_run.replace('+', '%2B')}"):
        phone.goto(ui.url + path)
        expect(phone.get_by_role("heading", level=1)).to_be_visible()
        assert phone.evaluate("document.documentElement.scrollWidth") <= 390
        phone.keyboard.press("Tab")  # the keyboard reaches the first link
        assert phone.evaluate("document.activeElement.tagName") in ("A", "DIV", "PRE")
    phone.close()
