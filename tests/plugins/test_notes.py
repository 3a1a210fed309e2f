"""Tags and notes that people write on a version's page: who may, what is refused, and that nothing in them is run."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from fastapi import FastAPI

from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.notes import MAX_NOTE_CHARACTERS, notes_path, read_notes
from mnist_tasks.workspace import Workspace
from tests.plugins.markup import Markup
from tests.plugins.site import Answer, Browser, token

HOSTILE = ["<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "{{ 7 * 191 }}", "&lt;b&gt;"]


def send(server: FastAPI, path: str, role: str | None = "USER", **fields: str) -> Answer:
    """Send a form as a browser does from the page itself."""
    headers = {
        "Authorization": f"Bearer {token(role)}",
        "Sec-Fetch-Site": "same-origin",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    return Browser(server, headers=headers).ask(path, "POST", urlencode(fields))


def test_a_note_and_tags_are_shown_with_their_author(server: FastAPI, home: Workspace, promoted: str) -> None:
    assert promoted
    answer = send(server, "/models/1/notes", note="In production since May.\r\nAsk Ada.")
    assert (answer.status, answer.headers["location"]) == (303, "/mnist/models/1")
    send(server, "/models/1/tags", tags="prod  eu-west prod")

    page = Browser(server).get("/models/1").text
    assert "In production since May. Ask Ada. somebody, 20" in page
    assert "prod eu-west" in page
    assert "prod eu-west" in Browser(server).get("/models").text
    notes = read_notes(ModelDirectory(home.models), 1)
    assert [(tag.name, tag.by) for tag in notes.tags] == [("prod", "somebody"), ("eu-west", "somebody")]
    assert notes.notes[0].text == "In production since May.\nAsk Ada."

    send(server, "/models/1/tags", tags="old")
    assert [tag.name for tag in read_notes(ModelDirectory(home.models), 1).tags] == ["old"]


def test_what_people_write_changes_nothing_in_the_version(server: FastAPI, home: Workspace, promoted: str) -> None:
    assert promoted
    before = {path: path.read_bytes() for path in (home.models / "1").rglob("*") if path.is_file()}
    send(server, "/models/1/notes", note="a")
    assert {path: path.read_bytes() for path in (home.models / "1").rglob("*") if path.is_file()} == before
    assert "damaged" not in Browser(server).get("/models/1").text


@pytest.mark.parametrize("path", ["/models/1/notes", "/models/1/tags"])
def test_only_those_who_may_trigger_the_training_may_write(
    server: FastAPI, home: Workspace, promoted: str, path: str
) -> None:
    assert promoted
    assert send(server, path, role="VIEWER", note="a", tags="a").status == 403
    assert send(server, path, role=None, note="a", tags="a").status == 403
    assert Browser(server, headers={}).ask(path, "POST", "note=a&tags=a").status == 401
    assert not notes_path(ModelDirectory(home.models), 1).exists()


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none"])
def test_another_site_cannot_write_in_the_name_of_a_person_who_is_logged_in(
    server: FastAPI, home: Workspace, promoted: str, site: str
) -> None:
    assert promoted
    headers = {"Cookie": f"_token={token('ADMIN')}", "Sec-Fetch-Site": site}
    assert Browser(server, headers=headers).ask("/models/1/notes", "POST", "note=a").status == 403
    assert not notes_path(ModelDirectory(home.models), 1).exists()


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_notes_are_shown_as_they_are(server: FastAPI, home: Workspace, promoted: str, text: str) -> None:
    assert promoted
    send(server, "/models/1/notes", note=text)
    page = Browser(server).get("/models/1")
    assert text in page.text
    assert Markup(page.html).faults == []
    assert home.models


@pytest.mark.parametrize(
    ("path", "fields", "words"),
    [
        ("tags", {"tags": "<b>"}, "'<b>' is not a tag; use at most 40 letters, digits and _.:/+-"),
        ("tags", {"tags": "x" * 41}, "is not a tag"),
        ("tags", {"tags": " ".join("abcdefghijk")}, "11 tags are more than the 10 that a version may have"),
        ("notes", {"note": "  "}, "the note is empty"),
        ("notes", {}, "the note is empty"),
        ("notes", {"note": "x" * (MAX_NOTE_CHARACTERS + 1)}, "the note has 1,001 characters; the maximum is 1,000"),
    ],
)
def test_what_is_no_tag_and_no_note_is_refused_with_the_bound(
    server: FastAPI, home: Workspace, promoted: str, path: str, fields: dict[str, str], words: str
) -> None:
    assert promoted
    answer = send(server, f"/models/1/{path}", **fields)
    assert answer.status == 400
    assert f"Not saved: {words}" in answer.text or words in answer.text
    assert not notes_path(ModelDirectory(home.models), 1).exists()


def test_a_form_that_is_too_large_or_about_no_version_is_refused(
    server: FastAPI, home: Workspace, promoted: str
) -> None:
    assert promoted
    assert send(server, "/models/1/notes", note="x" * 30_000).status == 413
    assert send(server, "/models/7/notes", note="x").status == 404
    assert not (home.models / "notes").exists()


def test_damaged_notes_are_named_and_not_written_over(server: FastAPI, home: Workspace, promoted: str) -> None:
    assert promoted
    send(server, "/models/1/notes", note="a")
    path = notes_path(ModelDirectory(home.models), 1)
    path.write_text('{"tags": 3}')
    assert f"{path} cannot be read: tags" in Browser(server).get("/models/1").text
    assert "1.json cannot be read: tags" in Browser(server).get("/models").text
    assert send(server, "/models/1/notes", note="b").status == 409
    assert path.read_text() == '{"tags": 3}'
