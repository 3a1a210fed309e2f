"""The pages of the plugin, served by Airflow's API server with a real database and the simple auth manager.

Every answer is checked for its security headers, and the HTML of every page for forbidden elements.
"""

from __future__ import annotations

import html
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.utils.state import DagRunState
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Mount
from starlette.testclient import TestClient

from mnist_tasks.gate_config import GateConfig
from mnist_tasks.promote import promote
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.retirement import retire
from mnist_tasks.registry.rollback import roll_back
from mnist_tasks.system.errors import ModelError
from mnist_tasks.system.files import write_json
from mnist_tasks.workspace import PROJECT, Workspace
from tests.helpers import publish, without_root
from tests.plugins.documents import DIGEST, PNG, evaluated_run, history
from tests.plugins.markup import Markup
from tests.plugins.site import NOW, Airflow, Answer, Browser, plots, promoted_run, token

SECRET = "what nobody may read"  # noqa: S105 - a file's content
SCRIPT = "<script>alert(1)</script>"

# An address for each route. They all exist with the fixture `promoted`.
ROUTES = {
    "/models": "/models",
    "/compare": "/compare?of=1&of=run:{run}",
    "/models/{number}": "/models/1",
    "/models/{number}/model.keras": "/models/1/model.keras",
    "/models/{number}/figures/{name}": "/models/1/figures/recall.png",
    "/runs/{dag_id}/{run_id}": "/runs/mnist_training/{run}",
    "/runs/{dag_id}/{run_id}/figures/{name}": "/runs/mnist_training/{run}/figures/recall.png",
    "/static/{name}": "/static/style.css",
}
WRITING = ("/models/{number}/tags", "/models/{number}/notes")


def models_once_verified(browser: Browser) -> Answer:
    """The page about the models after all files have been looked at."""
    from mnist_ui.model_pages import VERIFIER

    browser.get("/models")
    VERIFIER.wait()
    return browser.get("/models")


# Access


def test_every_route_of_the_plugin_is_asked_for_by_these_tests(server: FastAPI) -> None:
    from mnist_ui.app import app

    assert "/mnist" in [route.path for route in server.routes if isinstance(route, Mount)]
    assert all(isinstance(route, APIRoute) for route in app.routes)
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    assert {route.path for route in routes if route.methods == {"GET"}} == set(ROUTES)
    assert {route.path for route in routes if route.methods == {"POST"}} == set(WRITING)
    assert len(routes) == len(ROUTES) + len(WRITING)


@pytest.mark.parametrize("path", ROUTES.values(), ids=list(ROUTES))
def test_a_route_is_for_those_who_may_see_the_runs_of_the_training(server: FastAPI, promoted: str, path: str) -> None:
    path = path.format(run=promoted)

    def status(headers: dict[str, str]) -> int:
        answer = Browser(server, headers=headers).ask(path)
        assert answer.status == 200 or b"0.98" not in answer.body
        return answer.status

    def both(jwt: str) -> tuple[int, int]:
        return status({"Authorization": f"Bearer {jwt}"}), status({"Cookie": f"_token={jwt}"})

    assert status({}) == 401
    assert both(token("VIEWER")) == (200, 200)
    assert both(token("ADMIN")) == (200, 200)
    assert both(token(None)) == (403, 403)
    assert both(token("VIEWER", seconds=-100)) == (401, 401)
    # Airflow answers 403 to a forged token on its own pages too.
    header, body, signature = token("VIEWER").split(".")
    _, other_body, _ = token("ADMIN").split(".")
    assert both(f"{header}.{other_body}.{signature}") == (403, 403)
    assert both(f"{header}.{body}.") == (403, 403)
    assert both("no token") == (403, 403)


def test_what_airflow_says_to_bad_tokens_is_what_the_pages_say(server: FastAPI, home: Workspace) -> None:
    assert home.root
    with TestClient(server) as client:
        for jwt, expected in [(token("VIEWER", seconds=-100), 401), ("no token", 403), (token(None), 403)]:
            headers = {"Authorization": f"Bearer {jwt}"}
            for path in ("/api/v2/dags/mnist_training/dagRuns", "/mnist/models"):
                assert client.get(path, headers=headers).status_code == expected


@pytest.mark.parametrize("allowed", ["mnist_training", "mnist_rollback"])
def test_access_is_asked_for_by_dag(
    browser: Browser, promoted: str, airflow: Airflow, monkeypatch: pytest.MonkeyPatch, allowed: str
) -> None:
    rollback = airflow.run("mnist_rollback", conf={"reason": "why"})
    asked = []

    def is_authorized(
        _: SimpleAuthManager,
        *,
        method: str,
        user: SimpleAuthManagerUser,
        access_entity: DagAccessEntity | None = None,
        details: DagDetails | None = None,
    ) -> bool:
        assert user.username == "somebody"
        assert details is not None
        asked.append((method, access_entity))
        return details.id == allowed

    monkeypatch.setattr(SimpleAuthManager, "is_authorized_dag", is_authorized)
    status = 200 if allowed == "mnist_training" else 403
    for path in ROUTES.values():
        browser.get(path.format(run=promoted), status)
    # The page of a rollback needs access to both DAGs.
    browser.get(f"/runs/mnist_rollback/{rollback}", 403)
    assert set(asked) == {("GET", DagAccessEntity.RUN)}


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_nothing_can_be_changed_through_the_pages(server: FastAPI, promoted: str, method: str) -> None:
    for path in ROUTES.values():
        assert Browser(server, role="ADMIN").ask(path.format(run=promoted), method).status == 405


def test_whoever_is_not_logged_in_learns_nothing_from_a_bad_address(server: FastAPI, promoted: str) -> None:
    anonymous = Browser(server, headers={})
    for path in ("/models/0", "/models/999", "/models/x", f"/runs/other/{promoted}", "/runs/mnist_training/a%00b"):
        anonymous.get(path, 401)


# Hostile addresses

HOSTILE = {
    "up": "..",
    "up and down": "../../../etc/passwd",
    "encoded slash": "..%2f..%2f..%2fsecret.json",
    "encoded": "%2e%2e%2f%2e%2e%2fsecret.json",
    "double-encoded": "%252e%252e%252fsecret.json",
    "backslash": "..%5c..%5csecret.json",
    "absolute": "%2fetc%2fpasswd",
    "absolute, encoded twice": "%252fetc%252fpasswd",
    "NUL": "1%00",
    "NUL and an ending": "recall.png%00.png",
    "carriage return": "1%0dSet-Cookie:a=b",
    "long": "1" * 10_000,
    "long name": "a" * 10_000,
    "script": quote(SCRIPT, safe=""),
    "attribute": quote('"><img src=x onerror=alert(1)>', safe=""),
    "template": quote("{{ 7 * 191 }}{% include 'base.html' %}", safe=""),
    "arabic digit": quote("\u0661"),
    "fullwidth digit": quote("\uff11"),
    "superscript": quote("\u00b9"),
    "negative": "-1",
    "sign": "%2b1",
    "zero": "0",
    "leading zero": "01",
    "fraction": "1.0",
    "exponent": "1e0",
    "grouped": "1_0",
    "space": "1%20",
    "huge": "9" * 30,
    "too large a version": "999999999",
    "hidden": ".lock",
    "the link": "champion",
    "the registry's file": "history.jsonl",
    "SQL": quote("' OR '1'='1"),
    "surrogate": "%ed%a0%80",
    "everything": "~",
    "empty": "",
}
PLACES = {
    "version": "/models/{}",
    "version of a download": "/models/{}/model.keras",
    "version of a figure": "/models/{}/figures/recall.png",
    "figure of a version": "/models/1/figures/{}",
    "dag": "/runs/{}/{run}",
    "run": "/runs/mnist_training/{}",
    "dag of a figure": "/runs/{}/{run}/figures/recall.png",
    "run of a figure": "/runs/mnist_training/{}/figures/recall.png",
    "figure of a run": "/runs/mnist_training/{run}/figures/{}",
    "run of a rollback": "/runs/mnist_rollback/{}",
    "static file": "/static/{}",
}


def test_each_parameter_of_each_route_has_hostile_values() -> None:
    parameters = sum(route.count("{") for route in ROUTES)
    assert len(set(PLACES) - {"run of a rollback"}) == parameters


@pytest.mark.parametrize("place", PLACES.values(), ids=list(PLACES))
def test_no_hostile_value_gets_anything(browser: Browser, home: Workspace, promoted: str, place: str) -> None:
    (home.root / "secret.json").write_text(json.dumps({"reason": SECRET}))
    (home.models / "secret.json").write_text(json.dumps({"reason": SECRET}))
    before = files_below(home.root.parent)
    for name, value in HOSTILE.items():
        # The value may turn the address into one of another route: `/models/` redirects to the list.
        answer = browser.ask_raw(place.format(value, run=promoted))
        allowed = {307, 404} if name == "empty" else {404}
        assert answer.status in allowed, name
        assert "1337" not in answer.html, name
        assert SECRET not in answer.html, name
        assert "root:" not in answer.html, name
        assert "set-cookie" not in answer.headers, name
    assert files_below(home.root.parent) == before


@pytest.mark.parametrize("place", PLACES.values(), ids=list(PLACES))
def test_an_address_with_a_line_break_does_not_reach_the_plugin(browser: Browser, promoted: str, place: str) -> None:
    answer = browser.ask_unchecked(place.format("1%0d%0aSet-Cookie:a=b", run=promoted))
    assert answer.status == 404
    assert "set-cookie" not in answer.headers
    assert b"Traceback" not in answer.body


def files_below(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("method", [Path.symlink_to, None], ids=["link", "pipe"])
@pytest.mark.parametrize("name", ["figures/recall.png", "figures", "evaluation.json", "decision.json", "history.json"])
def test_a_link_that_leads_out_of_a_runs_folder_is_not_followed(
    browser: Browser, home: Workspace, promoted: str, name: str, method: Callable[[Path, Path], None] | None
) -> None:
    run = home.run_folder(promoted)
    plant(run / name, home.root.parent / "outside", method)
    page = browser.get(f"/runs/mnist_training/{promoted}")
    assert SECRET not in page.html
    assert f"{name} is not a file of this folder" in page.text or "The figure recall.png is missing" in page.text
    for figure in ("recall.png", "mistakes.png"):
        answer = browser.ask(f"/runs/mnist_training/{promoted}/figures/{figure}")
        assert answer.status == 404 if name in ("figures", f"figures/{figure}") else answer.body == PNG


@pytest.mark.parametrize("method", [Path.symlink_to, None], ids=["link", "pipe"])
@pytest.mark.parametrize("name", ["figures/recall.png", "figures", "evaluation.json", "metadata.json", "model.keras"])
def test_a_link_that_leads_out_of_a_version_is_not_followed(
    browser: Browser, home: Workspace, promoted: str, name: str, method: Callable[[Path, Path], None] | None
) -> None:
    assert promoted
    browser.get("/models")  # data that were read before the link was made are not shown afterwards
    plant(home.models / "1" / name, home.root.parent / "outside", method)
    listed, page = browser.get("/models"), browser.get("/models/1")
    assert SECRET not in listed.html + page.html
    assert "version 1 is damaged" in page.text
    assert f"{name} is not a file of the model directory" in page.text
    if name.endswith(".json"):
        assert f"version 1 is damaged: {name} is not a file of this folder" in listed.text
    figure = browser.ask("/models/1/figures/recall.png")
    assert figure.status == (404 if name.startswith("figures") else 200)
    model = browser.ask("/models/1/model.keras")
    assert model.status == (404 if name == "model.keras" else 409)


def plant(path: Path, outside: Path, method: Callable[[Path, Path], None] | None) -> None:
    """Replace a file or folder with a link to one outside, or with a pipe, on which a reader would wait for ever."""
    outside.mkdir()
    if path.is_dir():
        for name in ("recall.png", "mistakes.png"):
            (outside / name).write_text(SECRET)
        target = outside
        path.rename(outside.with_name("moved away"))
    else:
        target = outside / path.name
        document = json.loads(path.read_bytes()) if path.suffix == ".json" else None
        target.write_text(json.dumps({**document, "reason": SECRET}) if isinstance(document, dict) else SECRET)
        path.unlink()
    if method:
        method(path, target)
    else:
        os.mkfifo(path)


def test_a_version_that_is_a_link_to_elsewhere_is_damaged(browser: Browser, home: Workspace, promoted: str) -> None:
    (home.models / "1").rename(home.root.parent / "elsewhere")
    (home.models / "1").symlink_to(home.root.parent / "elsewhere")
    assert "version 1 is damaged: metadata.json is not a file of this folder" in browser.get("/models").text
    assert "is not a file of the model directory" in browser.get("/models/1").text
    browser.get("/models/1/model.keras", 404)
    assert promoted


def test_the_model_directory_itself_may_be_a_link(browser: Browser, home: Workspace, promoted: str) -> None:
    home.models.rename(home.root.parent / "large disk")
    home.models.symlink_to(home.root.parent / "large disk")
    assert "damaged" not in browser.get("/models").text + browser.get("/models/1").text
    browser.get("/models/1/figures/recall.png")
    browser.get(f"/runs/mnist_training/{promoted}")


HOSTILE_TEXTS = [SCRIPT, "\"'><img src=x onerror=alert(1)>", "{{ 7 * 191 }}", "javascript:alert(1)", "&lt;b&gt;"]


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_hostile_words_in_documents_are_shown_as_they_are(
    browser: Browser, home: Workspace, airflow: Airflow, text: str
) -> None:
    run_id = promoted_run(home, airflow, 0.95, None, force=True, force_reason=text)
    for folder, metadata in ((home.models / "1", "metadata.json"), (home.run_folder(run_id), "training.json")):
        change(folder / metadata, config={text: text, "architecture": text}, run_id=f"__{text}", device=text)
        change(folder / metadata, library_versions={text: text}, git_commit=text, published=text)
        checks = [dict.fromkeys(("rule", "metric", "slice", "verdict", "message"), text)]
        change(folder / "decision.json", checks=checks, policy={text: text})
        epochs = [{"number": 1, "metrics": {text: 0.5}, "seconds": 1, "images_per_second": 1}]
        (folder / "history.json").write_text(json.dumps(epochs))
    change(home.dataset(DIGEST) / "dataset.json", source=text, **{text: text})
    checked_data(home.run_folder(run_id), text)
    event = {"time": NOW.isoformat(), "event": text, "from": 1, "to": 1, "reason": text, "published_by": f"__{text}"}
    with home.models.joinpath("history.jsonl").open("a") as lines:
        lines.write(json.dumps(event) + f"\n{text}\n")
    rollback = airflow.run("mnist_rollback", conf={"reason": text})

    pages = ["/models", "/models/1", f"/runs/mnist_training/{run_id}", f"/runs/mnist_rollback/{rollback}"]
    for path in pages:
        page = browser.get(path)
        assert text in Markup(page.html).text
        assert "1337" not in page.html


def change(path: Path, **values: Any) -> None:
    """Change values in a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("run_id", ["manual__2026-11-24T02:00:00.5+00:00", "a~b__c+d:e.f", "-rf", "x" * 200])
def test_every_run_id_that_airflow_and_the_workspace_allow_has_a_page_whose_links_lead_back_to_it(
    browser: Browser, home: Workspace, airflow: Airflow, run_id: str
) -> None:
    airflow.run(run_id=run_id, load="failed")
    promote(evaluated_run(home, run_id), home.models, GateConfig())
    page = Markup(browser.get(f"/runs/mnist_training/{quote(run_id)}").html)
    figures = [address for address in page.addresses if "figures" in address]
    assert len(figures) == 2
    for address in figures:
        assert browser.get(address.removeprefix("/mnist")).body == PNG
    logs = [address for address in page.addresses if "/tasks/" in address]
    assert [unquote(address) for address in logs] == [f"/dags/mnist_training/runs/{run_id}/tasks/load?try_number=0"]


@pytest.mark.parametrize("run_id", [".hidden", ":colon", "x" * 201])
def test_a_run_whose_id_names_no_folder_has_a_page_that_says_so(
    browser: Browser, home: Workspace, airflow: Airflow, run_id: str
) -> None:
    assert home.root
    airflow.run(run_id=run_id)
    page = browser.get(f"/runs/mnist_training/{quote(run_id)}", 404)
    assert f"run id {run_id!r} cannot name a folder" in page.text


# The content of each page


def test_an_empty_model_directory_says_how_to_get_a_model(browser: Browser, home: Workspace) -> None:
    page = browser.get("/models")
    assert "No model yet" in page.text
    assert "The first run of mnist_training that passes the gate puts one here" in page.text
    assert str(home.models) in page.text
    assert not home.root.exists()


def test_after_a_rejected_first_run_there_is_still_no_model_and_the_run_says_why(
    browser: Browser, home: Workspace, airflow: Airflow
) -> None:
    run_id = airflow.run(promote="skipped", evaluate="success")
    promote(evaluated_run(home, run_id, accuracy=0.95), home.models, GateConfig())
    assert "No model yet" in browser.get("/models").text
    page = browser.get(f"/runs/mnist_training/{run_id}")
    assert "Rejected: accuracy 0.9500 is below the minimum of 0.9700" in page.text
    assert "no champion yet to compare with" in page.text
    assert "There is no champion." in page.text
    assert "failed min_accuracy accuracy overall 0.9500 0.9700 -" in page.text
    assert "skipped max_regression accuracy overall - -0.0060 - no champion yet to compare with" in page.text


def test_checks_that_failed_come_first_then_the_closest_and_the_others_are_folded(
    browser: Browser, home: Workspace, airflow: Airflow
) -> None:
    run_id = airflow.run(promote="skipped", evaluate="success")
    promote(evaluated_run(home, run_id, accuracy=0.971), home.models, GateConfig(min_accuracy=0.98))

    page = browser.get(f"/runs/mnist_training/{run_id}")

    names = ("Failed checks", "Checks closest to their bounds", "Passed checks")
    failed, closest, passed = (page.html.index(name) for name in names)
    assert failed < closest < page.html.rindex("<details", 0, passed) < passed
    assert "failed min_accuracy accuracy overall 0.9710 0.9800" in page.text


def test_what_lies_beyond_accuracy_is_shown_for_both_models(
    browser: Browser, home: Workspace, airflow: Airflow, promoted: str
) -> None:
    run_id = airflow.run(promote="success", evaluate="success")
    run = evaluated_run(home, run_id, accuracy=0.985, champion=(1, 0.98))
    document = json.loads((run / "evaluation.json").read_text())
    document |= {
        "suspects": 27,
        "disagreements": {"only_candidate": 80, "only_champion": 30, "p_value": 0.0000019},
        "reference": {**document["champion"], "version": 1, "champions_since": 3},
    }
    (run / "evaluation.json").write_text(json.dumps(document))
    promote(run, home.models, GateConfig())

    text = browser.get(f"/runs/mnist_training/{run_id}").text

    assert promoted
    assert "thin strokes 900 0.9850 0.9800" in text
    assert "faint 2,000 0.9600 0.9600" in text
    assert "calibration error 0.0020 0.0020" in text
    assert "80 images only the candidate gets right, 30 only the champion" in text
    assert "p < 0.001: more than chance" in text
    assert "The best of the last champions is version 1: accuracy 0.9800" in text
    assert "The candidate is sure that 27 training images are other digits than their labels say" in text


def test_a_run_on_which_nothing_has_changed_says_so(
    browser: Browser, home: Workspace, airflow: Airflow, promoted: str
) -> None:
    run_id = airflow.run(promote="skipped", train="skipped", load="success")
    decision = {"outcome": "unchanged", "reason": "nothing has changed since version 1", "champion_version": 1}
    write_json(home.run(run_id) / "decision.json", {**decision, "promoted": False, "checks": [], "policy": {}})

    page = browser.get(f"/runs/mnist_training/{run_id}")

    assert "Unchanged: nothing has changed since version 1. Version 1 is champion." in page.text
    assert promoted not in page.text


def test_the_page_of_the_models_says_how_old_the_champion_is_and_how_many_runs_were_rejected_since(
    browser: Browser, home: Workspace, promoted: str
) -> None:
    assert "The champion, version 1, is less than a day old." in browser.get("/models").text
    assert "rejected" not in browser.get("/models").text

    history = home.models / "history.jsonl"
    event = json.loads(history.read_text())
    event["time"] = (datetime.now(timezone.utc) - timedelta(days=20, hours=1)).isoformat()
    history.write_text(json.dumps(event) + "\n")
    for number in range(2, 5):
        promote(evaluated_run(home, f"{promoted}.{number}", 0.9, (1, 0.98)), home.models, GateConfig())
    text = "The champion, version 1, is 20 days old. The last 3 runs were rejected."
    assert text in browser.get("/models").text


def test_a_promoted_run_is_champion_on_the_page_of_the_models(browser: Browser, home: Workspace, promoted: str) -> None:
    page = browser.get("/models")
    assert "Champion: version 1" in page.text
    assert "Test accuracy 0.9800 95 % interval 0.9770 to 0.9830" in page.text
    assert f'load_model("{home.models}/champion/model.keras")' in page.text
    assert f'href="/dags/mnist_training/runs/{promoted}"' in page.html
    assert 'href="/dags/mnist_rollback"' in page.html
    assert '"xs": [1]' in page.html
    assert f"now 1 promoted {promoted} accuracy 0.9800 reaches the minimum of 0.9700" in page.text


@pytest.mark.parametrize("of_version", [False, True], ids=["run", "version"])
def test_a_promoted_run_and_its_version_show_all_that_is_known(
    browser: Browser, home: Workspace, airflow: Airflow, promoted: str, of_version: bool
) -> None:
    assert promoted
    run_id = promoted_run(home, airflow, 0.985, champion=(1, 0.98))
    page = browser.get("/models/2" if of_version else f"/runs/mnist_training/{run_id}")
    text = page.text
    assert ("Promoted:" if of_version else "Promoted as version 2 :") in text
    assert "accuracy 0.9850 0.9800" in text
    assert "champion (version 1)" in text
    assert "a change of +0.0050, is within the allowed -0.0060" in text
    assert "5 epochs in numbers" in text
    assert "1 0.3000 0.9000 0.7" in text
    assert "0 1,000 0.9850 0.9850 0.9850 0.9800 0.9800 0.9800" in text
    assert "Confusion" in text
    assert "Test image 37 is 1, taken for 2 with probability 0.990" in text
    assert "Device CPU (2 cores)" in text
    assert "tensorflow 2.21.0" in text
    assert "hidden_units 128" in text
    assert "min_accuracy 0.97" in text
    assert "train pixel mean 33.32" in text
    assert "damaged" not in text
    assert ("load success 1 1.2" in text) is False  # the task load has no state in this run
    images = [address for address in Markup(page.html).addresses if "/figures/" in address]
    assert len(images) == 2
    for image in images:
        answer = browser.get(image.removeprefix("/mnist"))
        assert (answer.body, answer.headers["content-type"]) == (PNG, "image/png")


def test_every_link_of_the_pages_to_the_pages_leads_somewhere(
    browser: Browser, home: Workspace, airflow: Airflow, promoted: str
) -> None:
    promoted_run(home, airflow, 0.985, champion=(1, 0.98))
    to_follow, followed = ["/mnist/models", f"/mnist/runs/mnist_training/{promoted}"], set()
    while to_follow:
        address = to_follow.pop()
        followed.add(address)
        answer = browser.get(address.removeprefix("/mnist"))
        if answer.headers["content-type"].startswith("text/html"):
            links = Markup(answer.html).addresses
            to_follow += [link for link in links if link.startswith("/mnist/") and link not in followed]
    assert {"/mnist/models/1", "/mnist/models/2", "/mnist/models/2/model.keras", "/mnist/static/page.js"} <= followed


def test_links_stay_below_the_path_that_airflow_is_served_at(browser: Browser, promoted: str) -> None:
    page = browser.ask_raw("/models", root="/airflow")
    assert promoted in page.text
    assert [link for link in Markup(page.html).addresses if not link.startswith("/airflow/")] == []


def test_a_forced_version_is_marked_everywhere(browser: Browser, home: Workspace, airflow: Airflow) -> None:
    run_id = promoted_run(home, airflow, 0.95, force=True, force_reason="Ada: for the demo")
    reason = "forced (Ada: for the demo) although accuracy 0.9500 is below the minimum of 0.9700"
    models = browser.get("/models").text
    assert f"Forced {reason}" in models
    assert "forced" in models.split("Versions", 1)[1]
    assert f"Forced: {reason}" in browser.get("/models/1").text
    assert f"Forced as version 1 : {reason}" in browser.get(f"/runs/mnist_training/{run_id}").text


def test_a_refused_run_says_what_cannot_be_trusted(browser: Browser, home: Workspace, airflow: Airflow) -> None:
    run_id = airflow.run(state=DagRunState.FAILED, promote="failed", evaluate="success")
    with pytest.raises(ModelError, match="refused"):
        promote(evaluated_run(home, run_id, integrity=False), home.models, GateConfig())
    page = browser.get(f"/runs/mnist_training/{run_id}")
    assert "Refused: the candidate: loads: False; the candidate: saved model loads: False" in page.text
    assert "There is no champion." in page.text
    assert "failed integrity candidate loads" in page.text


def test_an_approved_run_is_promoted_only_once_it_is_published(
    browser: Browser, home: Workspace, airflow: Airflow, promoted: str
) -> None:
    """Two candidates were evaluated while there was no champion. The first has become champion since then."""
    assert promoted
    run_id = airflow.run(state=DagRunState.FAILED, promote="failed", evaluate="success")
    with pytest.raises(ModelError, match="compare them again"):
        promote(evaluated_run(home, run_id), home.models, GateConfig())

    page = browser.get(f"/runs/mnist_training/{run_id}").text

    assert "Promoted" not in page
    words = "the champion is version 1, but the candidate was compared"
    assert f"Approved by the gate, but not published. Publishing failed: {words}" in page
    assert "The gate's reason: accuracy 0.9800 reaches the minimum of 0.9700" in page
    assert "Version 1 is champion." in page


def test_what_an_older_release_called_promoted_is_looked_up(
    browser: Browser, home: Workspace, airflow: Airflow, promoted: str
) -> None:
    record = {"outcome": "promoted", "promoted": True, "version": None, "reason": "good enough", "checks": []}
    failed = airflow.run(state=DagRunState.FAILED, promote="failed")
    for run_id in (failed, promoted):
        write_json(home.run(run_id) / "decision.json", record)

    assert "Approved by the gate, but not published." in browser.get(f"/runs/mnist_training/{failed}").text
    assert "Promoted as version 1 :" in browser.get(f"/runs/mnist_training/{promoted}").text


@pytest.mark.parametrize("forced", [False, True])
def test_a_run_that_was_stopped_after_the_link_has_moved_is_promoted(
    browser: Browser, home: Workspace, airflow: Airflow, monkeypatch: pytest.MonkeyPatch, forced: bool
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    run_id = airflow.run(state=DagRunState.FAILED, promote="failed", evaluate="success")
    monkeypatch.setattr("mnist_tasks.promote.write_atomically", full)
    policy = GateConfig(min_accuracy=0.99, force=True, force_reason="Ada") if forced else GateConfig()
    with pytest.raises(OSError, match="No space"):
        promote(evaluated_run(home, run_id), home.models, policy)

    page = browser.get(f"/runs/mnist_training/{run_id}").text

    assert f"{'Forced' if forced else 'Promoted'} as version 1 :" in page


def test_a_version_that_a_kill_has_left_was_never_champion(
    browser: Browser, home: Workspace, airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    run_id = airflow.run(state=DagRunState.FAILED, promote="failed", evaluate="success")
    monkeypatch.setattr(ModelDirectory, "set_champion", killed)
    with pytest.raises(KeyboardInterrupt):
        promote(evaluated_run(home, run_id), home.models, GateConfig())

    assert "Approved by the gate, but never champion." in browser.get("/models/1").text
    assert "Approved by the gate, but not published." in browser.get(f"/runs/mnist_training/{run_id}").text


def test_a_night_like_one_that_was_rejected_is_no_success(browser: Browser, home: Workspace, airflow: Airflow) -> None:
    run_id = airflow.run(promote="skipped", train="skipped")
    record = {"outcome": "unchanged", "reason": "nothing has changed since that", "rejected_in": "that", "checks": []}
    write_json(home.run(run_id) / "decision.json", record)

    page = browser.get(f"/runs/mnist_training/{run_id}")

    assert "Unchanged: nothing has changed since that. There is no champion." in page.text
    assert "banner passed" not in page.html


def test_accuracy_on_mnists_own_test_set_is_shown_where_the_test_images_are_others(
    browser: Browser, home: Workspace, airflow: Airflow
) -> None:
    run_id = airflow.run(promote="skipped", evaluate="success")
    run = evaluated_run(home, run_id, champion=(1, 0.98))
    document = json.loads((run / "evaluation.json").read_text())
    for whose, accuracy in (("candidate", 0.148), ("champion", 0.977)):
        document[whose]["mnist"] = {"is_test_set": False, "accuracy": accuracy}
    write_json(run / "evaluation.json", document)
    promote(run, home.models, GateConfig())

    text = browser.get(f"/runs/mnist_training/{run_id}").text

    assert "accuracy on MNIST's own test set 0.1480 0.9770" in text
    assert "failed min_accuracy accuracy MNIST's own test set 0.1480 0.9700 -" in text


def test_a_queued_run_without_files_is_followed(browser: Browser, home: Workspace, airflow: Airflow) -> None:
    run_id = airflow.run(state=DagRunState.QUEUED)
    page = browser.get(f"/runs/mnist_training/{run_id}")
    assert "The run is queued; there is no decision yet. This page reloads itself." in page.text
    assert 'http-equiv="refresh"' in page.html
    assert not home.root.exists()


def test_a_training_that_is_running_shows_its_epochs_so_far(
    browser: Browser, home: Workspace, airflow: Airflow
) -> None:
    run_id = airflow.run(state=DagRunState.RUNNING, load="success", normalize="success", train="running")
    write_json(home.run(run_id) / "history.json", history(2))
    page = browser.get(f"/runs/mnist_training/{run_id}")
    assert "The run is running: train; there is no decision yet" in page.text
    assert "2 epochs in numbers" in page.text
    assert "2 0.1500 0.9500 0.7" in page.text
    assert "missing" not in page.text


def test_a_training_of_minutes_is_followed_within_an_epoch(browser: Browser, home: Workspace, airflow: Airflow) -> None:
    run_id = airflow.run(state=DagRunState.RUNNING, load="success", normalize="success", train="running")
    points = [{"epochs": 1 + part / 10, "loss": 1 / part} for part in range(1, 6)]
    progress = {"epoch": 2, "epochs": 5, "images": 30000, "of": 60000, "points": points}
    write_json(home.run(run_id) / "progress.json", progress)

    page = browser.get(f"/runs/mnist_training/{run_id}")

    assert "Epoch 2 of 5: 30,000 of 60,000 images. Loss of this epoch so far 0.2000" in page.text
    assert '"xs": [1.1, 1.2, 1.3, 1.4, 1.5]' in html.unescape(page.html)
    assert "5 points in numbers" in page.text
    assert "1.50 0.2000" in page.text

    # What a training that is over has left says nothing about now.
    over = airflow.run(state=DagRunState.FAILED, train="failed")
    write_json(home.run(over) / "progress.json", progress)
    assert "Training now" not in browser.get(f"/runs/mnist_training/{over}").text


def test_a_finished_run_does_not_load_itself_again(browser: Browser, promoted: str) -> None:
    assert "refresh" not in browser.get(f"/runs/mnist_training/{promoted}").html


def test_a_run_that_failed_before_the_gate_leads_to_the_log(
    browser: Browser, home: Workspace, airflow: Airflow
) -> None:
    assert home.root
    run_id = airflow.run(state=DagRunState.FAILED, load="failed")
    page = browser.get(f"/runs/mnist_training/{run_id}")
    assert "load failed: it left no message, as when its process is killed" in page.text
    assert "The run failed before the gate decided. There is no champion." in page.text
    assert f'href="/dags/mnist_training/runs/{run_id}/tasks/load?try_number=0"' in page.html


def test_the_banner_of_a_failed_run_has_the_message_of_the_task(
    browser: Browser, home: Workspace, airflow: Airflow
) -> None:
    assert home.root
    message = f"/data/x.npz is missing {SCRIPT}; give the path of a file"
    run_id = airflow.run(state=DagRunState.FAILED, load="failed", train="upstream_failed")
    airflow.hand_on(run_id, "load", message)
    page = browser.get(f"/runs/mnist_training/{run_id}")
    assert f"load failed: {message}. Log of load" in page.text
    assert "train failed" not in page.text


def test_a_task_that_is_tried_again_says_why(browser: Browser, home: Workspace, airflow: Airflow) -> None:
    assert home.root
    run_id = airflow.run(state=DagRunState.RUNNING, load="success", train="up_for_retry")
    airflow.hand_on(run_id, "train", "[Errno 28] No space left on device")
    page = browser.get(f"/runs/mnist_training/{run_id}")
    assert "train failed and is tried again: [Errno 28] No space left on device." in page.text


def test_a_rejection_that_fails_the_run_is_told_once(browser: Browser, home: Workspace, airflow: Airflow) -> None:
    run_id = airflow.run(state=DagRunState.FAILED, promote="failed")
    promote(evaluated_run(home, run_id, 0.5), home.models, GateConfig())
    text = browser.get(f"/runs/mnist_training/{run_id}").text
    assert "Rejected: accuracy 0.5000 is below the minimum" in text
    assert "promote failed" not in text


def test_a_candidate_that_waits_has_a_button_to_the_answer(browser: Browser, home: Workspace, airflow: Airflow) -> None:
    run_id = airflow.run(state=DagRunState.RUNNING, evaluate="success", promote="awaiting_input")
    evaluated_run(home, run_id)
    page = browser.get(f"/runs/mnist_training/{run_id}")
    assert "The candidate waits for an answer. It passes the gate. Approve or reject it" in page.text
    assert f'href="/dags/mnist_training/runs/{run_id}/tasks/promote/required_actions"' in page.html
    assert "no decision yet" not in page.text


def test_batches_that_were_left_out_are_named_in_the_banner_of_a_promoted_run(
    browser: Browser, home: Workspace, promoted: str
) -> None:
    batches = [{"name": f"{n}.npz", "verdict": "quarantined", "reason": f"reason {n}"} for n in range(7)]
    report = {"source": "builtin", "batches": [{"name": "good.npz", "verdict": "merged"}, *batches]}
    (home.run_folder(promoted) / "data").mkdir()
    write_json(home.run_folder(promoted) / "data" / "validation.json", report)
    text = browser.get(f"/runs/mnist_training/{promoted}").text
    assert "Promoted as version 1" in text
    assert "7 of 8 batches were left out. 0.npz: reason 0 1.npz" in text
    assert "2 more, under Data" in text


def test_a_retired_champion_is_said_to_be_retired(browser: Browser, home: Workspace, promoted: str) -> None:
    assert promoted
    retire(ModelDirectory(home.models), reason="it was wrong about sevens", published_by="ada")
    text = browser.get("/models").text
    assert "No champion: version 1 was retired" in text
    assert "by ada. Reason: it was wrong about sevens" in text
    assert "No model yet" not in text


def test_a_run_whose_folder_is_gone_says_so(browser: Browser, home: Workspace, airflow: Airflow) -> None:
    run_id = airflow.run(promote="success")
    page = browser.get(f"/runs/mnist_training/{run_id}")
    assert f"The run ended without a decision: nothing is in {home.run_folder(run_id)}" in page.text


BREAKAGES: dict[str, tuple[str, str | None, str]] = {
    "metadata cut short": ("metadata.json", '{"run_id": "x', "metadata.json cannot be read: Invalid JSON"),
    "metadata missing": ("metadata.json", None, "metadata.json is missing"),
    "metadata is a list": ("metadata.json", "[]", "metadata.json cannot be read: Input should be"),
    "config is a text": ("metadata.json", '{"config": "mlp"}', "metadata.json cannot be read: config: Input should"),
    "binary": ("metadata.json", "\x00\x01", "metadata.json cannot be read: Invalid JSON"),
    "evaluation missing": ("evaluation.json", None, "evaluation.json is missing"),
    "no candidate": ("evaluation.json", "{}", "evaluation.json cannot be read: candidate: Field required"),
    "a text for a number": ("evaluation.json", '{"candidate": {"accuracy": "high"}}', "candidate: accuracy: Input"),
    "not a number": ("evaluation.json", '{"candidate": {"accuracy": NaN}}', "candidate: accuracy: Input should be"),
    "an infinite loss": ("evaluation.json", '{"candidate": {"loss": Infinity}}', "candidate: loss: Input should be"),
    "half an interval": ("evaluation.json", '{"candidate": {"accuracy_95": [0.9]}}', "candidate: accuracy_95: 1"),
    "a matrix of texts": ("evaluation.json", '{"candidate": {"confusion": [["x"]]}}', "candidate: confusion: 0: 0:"),
    "checks are no list": ("decision.json", '{"checks": {"a": 1}}', "decision.json cannot be read: checks: Input"),
    "decision missing": ("decision.json", None, "decision.json is missing"),
    "nested too deep": ("decision.json", "[" * 100_000, "decision.json cannot be read: Invalid JSON: recursion limit"),
}


@pytest.mark.parametrize("breakage", BREAKAGES.values(), ids=list(BREAKAGES))
def test_a_damaged_version_is_named_in_the_list_and_on_its_page(
    browser: Browser, home: Workspace, airflow: Airflow, promoted: str, breakage: tuple[str, str | None, str]
) -> None:
    name, content, words = breakage
    promoted_run(home, airflow, 0.985, champion=(1, 0.98))
    assert "version 1 is damaged" not in browser.get("/models").text
    break_file(home.models / "1" / name, content)
    listed = models_once_verified(browser).text
    assert f"1 damaged version 1 is damaged: {words}" in listed if "missing" in words else "1 is damaged:" in listed
    assert "python -m mnist_tasks models repair" in listed
    assert "2 champion Download 0.9850" in listed
    page = browser.get("/models/1").text
    assert "version 1 is damaged" in page
    assert content is None or words in page
    assert promoted


def break_file(path: Path, content: str | None) -> None:
    path.unlink()
    if content is not None:
        path.write_text(content)


def test_a_damaged_champion_is_still_named_as_champion(browser: Browser, home: Workspace, promoted: str) -> None:
    (home.models / "1" / "evaluation.json").unlink()
    page = browser.get("/models").text
    assert "Champion: version 1 version 1 is damaged: evaluation.json is missing" in page
    assert promoted in page


def test_a_version_whose_model_is_missing_or_changed_says_so(browser: Browser, home: Workspace, promoted: str) -> None:
    model = home.models / "1" / "model.keras"
    content = model.read_bytes()
    model.write_bytes(content[::-1])
    assert f"version 1 is damaged: {model} has SHA-256" in browser.get("/models/1").text
    assert "It is not sent." in browser.get("/models/1/model.keras", 409).text
    listed = models_once_verified(browser)
    assert f"damaged champion 0.9800 0.0700 Why version 1 is damaged: {model} has SHA-256" in listed.text
    assert "Download version 1" not in listed.html
    model.unlink()
    assert f"version 1 is damaged: {model} cannot be read" in browser.get("/models/1").text
    assert "model.keras of version 1 is missing" in browser.get("/models/1/model.keras", 404).text
    assert promoted


def test_names_in_the_metadata_that_no_file_can_have_are_a_damage(
    browser: Browser, home: Workspace, promoted: str
) -> None:
    # The history holds the digest of metadata.json and would reveal the change first.
    (home.models / "history.jsonl").unlink()
    change(home.models / "1" / "metadata.json", sha256={"a\0b": "0"})
    assert "version 1 is damaged" in browser.get("/models/1").text
    assert promoted


@pytest.mark.parametrize("name", ["training.json", "history.json", "evaluation.json", "decision.json"])
@pytest.mark.parametrize(
    "content", ['{"a', '"text"', '[{"number": "x"}]', '{"candidate": 3, "config": 4, "checks": 5}']
)
def test_a_runs_broken_file_is_named_and_the_rest_is_shown(
    browser: Browser, home: Workspace, promoted: str, name: str, content: str
) -> None:
    (home.run_folder(promoted) / name).write_text(content)
    page = browser.get(f"/runs/mnist_training/{promoted}").text
    assert f"{name} cannot be read" in page
    assert ("Checks of the gate" in page) is (name != "decision.json")
    assert ("Each digit" in page) is (name != "evaluation.json")


@pytest.mark.parametrize("line", ['{"time": "20', "null", '"text"', '{"time": 3, "to": 1}', '{"time": ["x"]}'])
def test_a_broken_line_of_the_history_is_named(browser: Browser, home: Workspace, promoted: str, line: str) -> None:
    with home.models.joinpath("history.jsonl").open("a") as file:
        file.write(line + "\n")
    page = browser.get("/models").text
    assert "history.jsonl: line 2 is damaged" in page
    assert "Champion: version 1" in page
    browser.get(f"/runs/mnist_training/{promoted}")


@pytest.mark.parametrize("to", ['"<b>"', "[1]", '{"a": 1}', "1.5"])
def test_a_move_to_what_is_no_version_is_left_out(browser: Browser, home: Workspace, promoted: str, to: str) -> None:
    event = f'{{"time": "{NOW.isoformat()}", "event": "moved", "from": 1, "to": {to}, "published_by": "{promoted}"}}\n'
    with home.models.joinpath("history.jsonl").open("a") as file:
        file.write(event)
    assert "Champion: version 1" in browser.get("/models").text
    assert "Promoted as version 1 :" in browser.get(f"/runs/mnist_training/{promoted}").text


@pytest.mark.parametrize("target", ["7", "../runs", "nowhere", None])
def test_a_champion_link_that_leads_nowhere_is_explained(
    browser: Browser, home: Workspace, promoted: str, target: str | None
) -> None:
    link = home.models / "champion"
    link.unlink()
    if target:
        link.symlink_to(target)
    page = browser.get("/models").text
    assert f"{link} {f'leads to {target!r}, which is not a version' if target else 'is missing'}" in page
    assert "python -m mnist_tasks models repair" in page
    assert "No model yet" not in page
    assert "1 was champion Download Roll back 0.9800" in page
    browser.get("/models/1")
    browser.get(f"/runs/mnist_training/{promoted}")


def test_a_missing_figure_is_named_with_the_way_to_draw_it_again(
    browser: Browser, home: Workspace, promoted: str
) -> None:
    (home.run_folder(promoted) / "figures" / "recall.png").unlink()
    page = browser.get(f"/runs/mnist_training/{promoted}")
    assert "The figure recall.png is missing" in page.text
    assert "Clear the task evaluate of the run to draw it again" in page.text
    assert "figures/mistakes.png" in page.html
    assert "There is no such figure" in browser.get(f"/runs/mnist_training/{promoted}/figures/recall.png", 404).text


@pytest.mark.parametrize("name", ["confusion.png", "../model.keras", "model.keras", "RECALL.PNG", "recall.png/"])
def test_only_the_figures_of_the_pages_are_served(browser: Browser, home: Workspace, promoted: str, name: str) -> None:
    assert (home.run_folder(promoted) / "figures" / "confusion.png").exists()
    for folder in ("/models/1", f"/runs/mnist_training/{promoted}"):
        assert browser.ask_raw(f"{folder}/figures/{name}").status in (307, 404)


def checked_data(run: Path, name: str = "from the scanner") -> None:
    """Write what `load` records about a source and about a batch of the inbox that was left out."""
    checks = [
        {"rule": rule, "metric": "images", "slice": "train", "value": value, "bound": 0, "baseline": None}
        | {"verdict": "failed" if value else "passed", "message": f"{value} of 300 training images"}
        for rule, value in (("conflicts", 3), ("blank", 0))
    ]
    batch = {
        "name": name,
        "verdict": "quarantined",
        "reason": f"{name}: 3 of 300",
        "train_images": 300,
        "test_images": 0,
    }
    waiting = {"name": "half", "verdict": "waiting", "reason": "it is not complete yet", "checks": []}
    (run / "data").mkdir()
    earlier = [{"name": f"night {n}", "verdict": "merged", "train_images": 200, "test_images": 0} for n in (1, 2)]
    document = {
        "source": "builtin",
        "checks": checks[1:],
        "batches": [*earlier, {**batch, "picture": "batch-01.png", "checks": checks}, waiting],
    }
    write_json(run / "data" / "validation.json", document)
    for picture in ("means.png", "batch-01.png"):
        (run / "data" / picture).write_bytes(PNG)


def test_a_run_shows_its_data_and_why_a_batch_was_left_out(browser: Browser, home: Workspace, promoted: str) -> None:
    address = f"/runs/mnist_training/{promoted}"
    assert "Mean image" not in browser.get(address).html
    checked_data(home.run_folder(promoted))

    page = browser.get(address)

    assert "Batch from the scanner: quarantined from the scanner: 3 of 300" in page.text
    assert "failed conflicts images train 3 0 3 of 300 training images" in page.text
    assert "Batch half: waiting it is not complete yet" in page.text
    assert "2 batches that were merged before night 1: 200 training and 0 test images night 2" in page.text
    assert "Batch night 1" not in page.text
    assert 'alt="Contact sheet of the batch from the scanner: a row for each digit' in page.html
    assert 'alt="The mean image of each digit' in page.html
    for name in ("means.png", "batch-01.png"):
        assert browser.ask(f"{address}/figures/{name}").body == PNG
    for name in ("batch-02.png", "validation.json", "batch-1.png", "batch-01.png.png"):
        assert browser.ask_raw(f"{address}/figures/{name}").status == 404


def test_pictures_of_the_data_are_not_read_through_links(browser: Browser, home: Workspace, promoted: str) -> None:
    data = home.run_folder(promoted) / "data"
    checked_data(data.parent)
    for name in ("batch-01.png", "validation.json"):
        plant(data / name, home.root.parent / f"outside {name}", Path.symlink_to)

    page = browser.get(f"/runs/mnist_training/{promoted}")

    assert "validation.json is not a file of this folder" in page.text
    assert browser.ask(f"/runs/mnist_training/{promoted}/figures/batch-01.png").status == 404


def test_the_run_of_another_dag_has_no_model(browser: Browser, home: Workspace, airflow: Airflow) -> None:
    run_id = airflow.run("somebody_elses")
    evaluated_run(home, run_id)
    page = browser.get(f"/runs/somebody_elses/{run_id}", 404)
    assert "This run is not one of mnist_training: it has no model." in page.text
    browser.get(f"/runs/somebody_elses/{run_id}/figures/recall.png", 404)


def test_a_run_that_airflow_does_not_know_is_not_there_even_if_its_folder_is(browser: Browser, home: Workspace) -> None:
    evaluated_run(home, "manual__forgotten")
    assert "There is no such run." in browser.get("/runs/mnist_training/manual__forgotten", 404).text
    assert "All models" in browser.get("/runs/mnist_training/never", 404).text


def test_an_unknown_version_and_page_have_a_helpful_answer(browser: Browser, promoted: str) -> None:
    assert promoted
    page = browser.get("/models/7", 404)
    assert "has no version 7; it has 1" in page.text
    assert 'href="/mnist/models"' in page.html
    assert "Not Found" in browser.get("/nothing", 404).text


def test_a_rollback_is_shown_by_its_run_its_version_and_the_list(
    browser: Browser, home: Workspace, airflow: Airflow, promoted: str
) -> None:
    second = promoted_run(home, airflow, 0.985, champion=(1, 0.98))
    run_id = airflow.run("mnist_rollback", conf={"reason": "it fails on sevens"}, rollback="success")
    models = ModelDirectory(home.models)
    roll_back(models, reason="it fails on sevens", published_by=run_id, once=True, smoke_test=lambda _: None)
    page = browser.get(f"/runs/mnist_rollback/{run_id}")
    assert "Version 3 became champion: version 1 again, instead of version 2." in page.text
    assert "Reason: it fails on sevens" in page.text
    listed = browser.get("/models")
    assert "Champion: version 3" in listed.text
    assert "3 champion Download 0.9800 0.0700 version 1 again" in listed.text
    assert f"now 3 rolled back {run_id} it fails on sevens" in listed.text
    assert f'href="/dags/mnist_rollback/runs/{run_id}"' in listed.html
    assert "damaged" not in browser.get("/models/3").text
    # The run that trained the restored model still belongs to version 1.
    assert "Promoted as version 1 :" in browser.get(f"/runs/mnist_training/{promoted}").text
    assert "Promoted as version 2 :" in browser.get(f"/runs/mnist_training/{second}").text


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (DagRunState.RUNNING, "The run is running: the older model is being loaded and checked"),
        (DagRunState.QUEUED, "The run is queued"),
        (DagRunState.FAILED, "This run has published nothing. Version 1 is champion."),
    ],
)
def test_a_rollback_that_has_published_nothing_says_so(
    browser: Browser, home: Workspace, airflow: Airflow, promoted: str, state: DagRunState, words: str
) -> None:
    assert home.models
    assert promoted
    run_id = airflow.run("mnist_rollback", state=state, conf={"reason": "it fails on sevens"})
    page = browser.get(f"/runs/mnist_rollback/{run_id}")
    assert words in page.text
    assert "Reason: it fails on sevens" in page.text
    assert ("refresh" in page.html) is (state != DagRunState.FAILED)


def test_what_an_older_release_wrote_is_shown_without_what_it_did_not_write(
    browser: Browser, home: Workspace, promoted: str
) -> None:
    version, run = home.models / "1", home.run_folder(promoted)
    metadata = {"version": 1, "run_id": promoted, "config": {"architecture": "mlp"}, "dataset": DIGEST}
    candidate = {"accuracy": 0.98, "loss": 0.07}
    check = {"name": "min_accuracy", "metric": "accuracy", "value": 0.98, "bound": 0.97, "verdict": "passed"}
    decision = {"promoted": True, "reason": "good enough", "checks": [check], "champion_version": None}
    for folder, name in ((version, "metadata.json"), (run, "training.json")):
        (folder / name).write_text(json.dumps(metadata))
        (folder / "evaluation.json").write_text(json.dumps({"candidate": candidate}))
        (folder / "decision.json").write_text(json.dumps(decision))
        (folder / "history.json").unlink()
    event = {"time": NOW.isoformat(), "event": "promoted", "from": None, "to": 1, "run_id": promoted, "reason": "good"}
    (home.models / "history.jsonl").write_text(json.dumps(event) + "\n")

    listed = browser.get("/models").text
    assert "0.9800 0.0700" in listed
    assert "classic" in listed
    assert f"now 1 promoted {promoted} good" in listed
    for path, banner in (("/models/1", "Promoted:"), (f"/runs/mnist_training/{promoted}", "Promoted as version 1 :")):
        page = browser.get(path).text
        assert f"{banner} good enough" in page
        assert "passed min_accuracy accuracy overall 0.9800 0.9700" in page
        assert "Git commit unknown" in page


def test_versions_from_the_helpers_of_other_tests_have_pages_too(browser: Browser, home: Workspace) -> None:
    models = ModelDirectory(home.models)
    publish(models, "first", None)
    publish(models, "second", 1)
    assert "2 champion Download 0.9000 0.3000 - classic" in browser.get("/models").text
    assert "damaged" not in browser.get("/models/2").text


def test_a_changed_version_shows_up_at_the_next_request(browser: Browser, home: Workspace, promoted: str) -> None:
    assert "1 champion Download 0.9800" in browser.get("/models").text
    evaluation = home.models / "1" / "evaluation.json"
    document = json.loads(evaluation.read_text())
    document["candidate"]["accuracy"] = 0.9801
    write_json(evaluation, document)
    assert "0.9801" in browser.get("/models").text
    assert promoted


def test_the_charts_have_the_accuracy_with_its_interval_the_gates_floor_and_the_loss(
    browser: Browser, home: Workspace, airflow: Airflow, promoted: str
) -> None:
    assert promoted
    promoted_run(home, airflow, 0.985, champion=(1, 0.98), min_accuracy=0.975)
    accuracy, loss = plots(browser.get("/models"))
    assert accuracy["xs"] == [1, 2]
    assert [(series["label"], series["kind"], series["values"]) for series in accuracy["series"]] == [
        ("accuracy", "line", [0.98, 0.985]),
        ("95 % from", "low", [0.977, 0.982]),
        ("to", "high", [0.983, 0.988]),
        ("min_accuracy", "floor", [0.97, 0.975]),
    ]
    assert [series["values"] for series in loss["series"]] == [[0.07, 0.07]]


def test_no_server_error_shows_its_reader_more_than_that_it_happened(
    server: FastAPI, home: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mnist_ui.model_pages

    assert home.root

    def fail(_: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(mnist_ui.model_pages, "overview", fail)
    answer = Browser(server, failing=True).get("/models", 500)
    assert "This page failed: the API server's log says why." in answer.text
    assert SECRET not in answer.html


def test_a_model_directory_that_cannot_be_read_is_explained(browser: Browser, home: Workspace, promoted: str) -> None:
    if os.geteuid():
        pytest.skip("the user who runs the tests owns the files and may always read them")
    home.models.chmod(0o700)
    for path in ("/models", "/models/1", f"/runs/mnist_training/{promoted}"):
        answer = without_root(partial(browser.get, path, 503), home.root.parent)
        assert "The models cannot be read by the API server" in answer.text
        assert "Permission denied" in answer.text


def test_a_server_that_does_not_know_where_the_models_are_says_what_to_set(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MNIST_HOME")
    monkeypatch.setattr("mnist_tasks.workspace.PROJECT", tmp_path)  # as if the package were installed elsewhere
    for path in ("/models", "/models/1", "/runs/mnist_training/a"):
        assert "MNIST_HOME is not set" in browser.get(path, 503).text


def test_a_download_is_the_model_under_a_name_that_says_which(browser: Browser, home: Workspace, promoted: str) -> None:
    answer = browser.get("/models/1/model.keras")
    assert answer.body == (home.models / "1" / "model.keras").read_bytes() == promoted.encode() * 100
    assert answer.headers["content-disposition"] == 'attachment; filename="mnist-1.keras"'
    assert answer.headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize(("name", "kind"), [("style.css", "text/css"), ("page.js", "text/javascript")])
def test_style_and_script_are_served_as_what_they_are(browser: Browser, name: str, kind: str) -> None:
    answer = browser.get(f"/static/{name}")
    assert answer.headers["content-type"].startswith(kind)
    assert answer.body == (PROJECT / "plugins" / "mnist_ui" / "static" / name).read_bytes()
    assert b"//" not in answer.body.replace(b"// ", b"")
    assert b"@import" not in answer.body


# Imports of the processes that load the plugin


def loaded_by(code: str, *arguments: str) -> set[str]:
    """Return the modules that a new process has imported through some code."""
    program = f"{code}\nprint(' '.join(sorted(set(sys.modules) - before)))"
    output = subprocess.run(
        [sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True, cwd=PROJECT
    ).stdout
    return {module.partition(".")[0] for module in output.splitlines()[-1].split()}


@pytest.mark.parametrize("airflow", ["import airflow.plugins_manager", "sys.modules['airflow.plugins_manager'] = fake"])
def test_loading_the_plugin_imports_nothing_but_itself(airflow: str) -> None:
    # One case replaces Airflow with a stand-in, because Airflow's own imports could hide imports of the plugin.
    code = f"""
import collections.abc, importlib, sys, types, typing
fake = types.ModuleType("fake")
fake.AirflowPlugin = object
sys.modules.setdefault("airflow", types.ModuleType("airflow")) if {"fake" in airflow} else None
{airflow}
before = set(sys.modules)
sys.path.insert(0, "plugins")
importlib.import_module("mnist_plugin")
"""
    assert loaded_by(code) == {"mnist_plugin"}


def test_airflow_loads_the_plugin_without_its_pages() -> None:
    code = """
import sys
before = set()
from airflow import plugins_manager
apps, _ = plugins_manager.get_fastapi_plugins()
assert [app["name"] for app in apps] == ["mnist"], apps
assert plugins_manager.get_import_errors() == {}
print()
"""
    modules = loaded_by(code)
    assert "mnist_plugin" in modules
    assert modules.isdisjoint({"mnist_ui", "mnist_tasks", "numpy", "tensorflow", "keras"})


def test_no_page_imports_numpy_or_tensorflow(home: Workspace) -> None:
    models = ModelDirectory(home.models)
    publish(models, "first", None)
    evaluated_run(home, "second")
    code = """
import sys
from datetime import datetime, timezone
from pathlib import Path
before = set()
sys.path.insert(0, "plugins")
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.workspace import Workspace
import mnist_ui.app
from mnist_ui.overview import moves_by, overview
from mnist_ui.report import damage, report
workspace = Workspace(Path(sys.argv[1]))
models = ModelDirectory(workspace.models)
assert overview(models, workspace.runs, datetime.now(timezone.utc)).champion.number == 1
assert not damage(models, models.version("1"))
assert report(models.version("1").folder, workspace.datasets, "metadata.json").models
assert report(workspace.run_folder("second"), workspace.datasets).checks == []
assert [move.to for move in moves_by("first", models)] == [1]
"""
    modules = loaded_by(code, str(home.root))
    assert "mnist_ui" in modules
    assert modules.isdisjoint({"numpy", "tensorflow", "keras", "matplotlib"})


# The check of the HTML

BAD_MARKUP = {
    "inline style": '<p style="color: red">a</p>',
    "style element": "<style>p {}</style>",
    "inline script": "<script>alert(1)</script>",
    "handler": '<p onclick="alert(1)">a</p>',
    "other host": '<a href="https://example.org/">a</a>',
    "other host without scheme": '<a href="//example.org/">a</a>',
    "script address": '<a href="javascript:alert(1)">a</a>',
    "image without text": '<img src="/a.png">',
    "image with an empty text": '<img src="/a.png" alt=" ">',
    "table without headings": "<table><tr><td>1</td></tr></table>",
    "heading without scope": "<table><tr><th>1</th></tr></table>",
    "skipped heading": "<h3>a</h3>",
    "picture without description": "<svg><title>a</title></svg>",
    "link without text": '<a href="/a"><b></b></a>',
    "not closed": "<p>a",
    "closes nothing": "</p>",
}


@pytest.mark.parametrize("bad", BAD_MARKUP.values(), ids=list(BAD_MARKUP))
def test_the_check_of_the_pages_finds_what_is_wrong(bad: str) -> None:
    page = '<!doctype html><html lang="en"><body><h1>a</h1>{}</body></html>'
    assert Markup(page.format("<p>fine</p>")).faults == []
    assert Markup(page.format(bad)).faults
    assert Markup(page.format("").replace(' lang="en"', "")).faults == ["no language"]
