"""`mnist predict`: what it says of pictures, of folders of them, and of what it is unsure."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnist_tasks.data import contact_sheets
from mnist_tasks.data.dataset import Digits
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.workspace import Workspace
from tests.cli.conftest import Command, process


@pytest.fixture
def scribble(tmp_path: Path) -> Path:
    """A picture that is no digit."""
    path = tmp_path / "scribble.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 2, (28, 28), np.uint8) * np.uint8(255)).save(path)
    return path


def test_predict_names_the_digit(command: Command, models: ModelDirectory, picture: Path, digits: Digits) -> None:
    assert models.champion()

    status, text, errors = command("predict", picture, picture, "--unsure-below", 0)

    assert (status, errors) == (0, "")
    first, second = text.splitlines()
    assert first == second
    assert first.startswith(f"{picture}: {digits.y_test[0]}   {digits.y_test[0]}: ")
    _, text, _ = command("predict", picture, "--version", 1, "--unsure-below", 0, "--json")
    (answer,) = json.loads(text)
    assert (answer["version"], answer["image"], answer["digit"]) == (1, str(picture), digits.y_test[0])
    assert (answer["status"], answer["doubts"], answer["error"]) == ("sure", [], None)
    assert (len(answer["probabilities"]), sum(answer["probabilities"])) == (10, pytest.approx(1, abs=1e-5))


def test_predict_says_of_what_it_is_unsure(
    command: Command, models: ModelDirectory, picture: Path, scribble: Path, digits: Digits, tmp_path: Path
) -> None:
    assert models.champion()
    two = tmp_path / "two.png"
    Image.fromarray(np.kron(np.hstack([digits.x_test[0], digits.x_test[0]]), np.ones((6, 6), np.uint8))).save(two)

    status, text, _ = command("predict", picture, "--unsure-below", 1)
    assert (status, text.count("   unsure: its probability is below 1\n")) == (1, 1)
    status, text, _ = command("predict", picture, scribble, two, "--unsure-below", 0, "--json")
    assert status == 1
    plain, none, several = json.loads(text)
    assert plain["status"] == "sure"
    assert (none["status"], none["doubts"]) == (
        "unsure",
        [f"not all of MNIST's 5 nearest digits are a {none['digit']}"],
    )
    assert (several["status"], several["doubts"][-1]) == (
        "unsure",
        "the picture seems to show more than one digit",
    )


@pytest.mark.parametrize("value", ["-0.1", "1.1", "often"])
def test_a_bound_that_is_no_probability_is_refused(value: str, command: Command, picture: Path) -> None:
    status, text, errors = command("predict", picture, "--unsure-below", value)

    assert (status, text) == (2, "")
    assert "Invalid value for '--unsure-below'" in errors


def test_a_picture_that_cannot_be_read_does_not_cost_the_other_answers(
    command: Command, models: ModelDirectory, picture: Path, tmp_path: Path
) -> None:
    assert models.champion()
    blank = tmp_path / "blank.png"
    Image.new("L", (1, 1)).save(blank)

    status, text, errors = command("predict", tmp_path / "none.png", picture, blank, "--unsure-below", 0)

    assert status == 2
    assert [line.split(": ")[0] for line in text.splitlines()] == [str(picture)]
    assert errors.splitlines() == [
        f"failed: {tmp_path / 'none.png'} does not exist",
        f"failed: {blank}: it shows nothing: all of its pixels look alike",
    ]
    status, text, errors = command("predict", blank, picture, "--json")
    assert status == 2
    failed, answered = json.loads(text)
    assert (failed["status"], failed["digit"], failed["probabilities"]) == ("failed", None, [])
    assert answered["digit"] is not None
    assert errors == f"failed: {failed['error']}\n"


def test_a_folder_is_taken_as_its_pictures(
    command: Command, models: ModelDirectory, picture: Path, tmp_path: Path
) -> None:
    assert models.champion()
    folder = tmp_path / "scans"
    (folder / "@eaDir").mkdir(parents=True)
    (folder / "older").mkdir()
    for name in ("b.png", "a.PNG", ".hidden.png", "Thumbs.db", "desktop.ini", "@eaDir/a.png", "older/c.png"):
        shutil.copy(picture, folder / name)

    status, text, errors = command("predict", folder, picture, "--unsure-below", 0)

    assert (status, errors) == (0, "")
    assert [line.split(": ")[0] for line in text.splitlines()] == [
        str(folder / "a.PNG"),
        str(folder / "b.png"),
        str(picture),
    ]


def test_a_folder_without_pictures_is_refused(command: Command, models: ModelDirectory, tmp_path: Path) -> None:
    assert models.champion()
    folder = tmp_path / "scans"
    folder.mkdir()
    (folder / "Thumbs.db").touch()

    status, text, errors = command("predict", folder)

    assert (status, text) == (2, "")
    assert errors == f"failed: {folder} has no pictures in it; name a picture, or a folder with some\n"


def test_what_the_model_got_is_drawn(
    command: Command, models: ModelDirectory, picture: Path, scribble: Path, digits: Digits, tmp_path: Path
) -> None:
    assert models.champion()
    sheet = tmp_path / "sheet.png"

    assert command("predict", picture, scribble, "--unsure-below", 0, "--sheet", sheet)[0] == 1

    drawn = np.asarray(Image.open(sheet).convert("L"))
    row = 2 + int(digits.y_test[0]) * contact_sheets.SIDE
    left = contact_sheets.MARGIN
    columns = [slice(left + n * contact_sheets.SIDE, left + n * contact_sheets.SIDE + 28) for n in range(2)]
    assert any(np.array_equal(drawn[row : row + 28, column], 255 - digits.x_test[0]) for column in columns)
    missing = tmp_path / "none" / "sheet.png"
    status, text, errors = command("predict", picture, "--sheet", missing)
    assert (status, text, errors) == (2, "", f"failed: --sheet: {missing.parent} is not a folder; make it first\n")


def test_predict_reads_the_images_before_it_imports_tensorflow(
    workspace: Workspace, models: ModelDirectory, tmp_path: Path
) -> None:
    assert models.champion()
    path = tmp_path / "letter.png"
    path.write_text("Dear Sir or Madam")
    script = (
        "import sys; from mnist_tasks.cli.main import main\n"
        "print(main(sys.argv[1:]), {'tensorflow', 'keras'} & sys.modules.keys())"
    )

    result = process(workspace, "-c", script, "predict", path)

    assert result.stdout == "2 set()\n"
    assert result.stderr == f"failed: {path} cannot be read as an image\n"


def test_predict_refuses_a_damaged_model(command: Command, models: ModelDirectory, picture: Path) -> None:
    (models.root / "2" / "model.keras").write_bytes(b"")

    status, text, errors = command("predict", picture)

    assert (status, text) == (2, "")
    assert errors.startswith(f"failed: version 2 is damaged: {models.root / '2' / 'model.keras'} has SHA-256 ")


def test_predict_prints_nothing_but_the_answer(workspace: Workspace, models: ModelDirectory, picture: Path) -> None:
    assert models.champion()

    result = process(workspace, "-m", "mnist_tasks", "predict", picture, "--unsure-below", "0")

    assert (result.returncode, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) == 1
