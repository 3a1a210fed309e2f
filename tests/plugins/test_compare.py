"""Two models side by side."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mnist_tasks.system.files import write_json
from mnist_tasks.workspace import Workspace
from tests.plugins.documents import PNG
from tests.plugins.site import Airflow, Browser, plots, promoted_run


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture
def second(home: Workspace, airflow: Airflow, promoted: str) -> str:
    """The id of the run that published version 2."""
    assert promoted
    return promoted_run(home, airflow, 0.985, champion=(1, 0.98), min_accuracy=0.975)


@pytest.mark.parametrize("query", ["of=1&of=2", "of=2&of=1", "of=run:{second}&of=1"])
def test_the_later_one_is_on_the_right_and_the_difference_is_its_number_minus_the_others(
    browser: Browser, second: str, query: str
) -> None:
    page = browser.get(f"/compare?{query.format(second=second)}")
    right = f"Run {second}" if "run:" in query else "Version 2"
    assert f"On the test set Version 1 {right} Difference accuracy 0.9800 0.9850 +0.0050" in page.text
    assert "loss (nats) 0.0700 0.0700 +0.0000" in page.text
    assert "parameters 101,770 101,770 +0" in page.text
    assert "0 0.9800 0.9850 +0.0050 1 0.9800 0.9850 +0.0050" in page.text  # the recall of each digit
    assert "thin strokes 0.9800 0.9850 +0.0050" in page.text
    assert "measured on different test images" not in page.text


def test_what_differs_comes_before_what_is_the_same(browser: Browser, home: Workspace, second: str) -> None:
    change(home.models / "2" / "metadata.json", config={"recipe": "cnn", "epochs": 5})
    assert second
    text = browser.get("/compare?of=1&of=2").text
    different, _, same = text.partition("parameters are the same")
    assert "recipe classic cnn" in different
    assert "min_accuracy 0.97 0.975" in different
    assert "epochs 5 5" in same
    assert "The data is the same." in different


def test_the_curves_of_both_are_in_one_chart(browser: Browser, second: str) -> None:
    assert second
    accuracy, loss = plots(browser.get("/compare?of=1&of=2"))
    assert [series["label"] for series in accuracy["series"]] == ["accuracy, Version 1", "accuracy, Version 2"]
    assert [series["kind"] for series in loss["series"]] == ["line", "other"]
    assert accuracy["xs"] == [1, 2, 3, 4, 5]


def mistook(folder: Path, *indices: int, test_set: str = "5" * 64, pictured: int = 1000) -> None:
    """Have a run or a version mistake these test images, the first of them most surely."""
    mistakes = [{"index": n, "label": n % 10, "predicted": 3, "probability": 0.9 - n / 1000} for n in indices]
    document = {"test_set_sha256": test_set, "images": 10_000, "columns": 2}
    write_json(folder / "mistakes.json", {**document, "pictured": min(pictured, len(mistakes)), "mistakes": mistakes})
    (folder / "figures" / "mistaken.png").write_bytes(PNG)


def test_the_images_that_only_one_of_any_two_gets_right_are_shown(
    browser: Browser, home: Workspace, second: str
) -> None:
    mistook(home.models / "1", 4, 5, 6, 7)
    mistook(home.run_folder(second), 5, 8)

    page = browser.get(f"/compare?of=1&of=run:{second}")

    assert "measured on different test images" not in page.text
    assert "By McNemar's exact test p = 0.625: no more than chance." in page.text
    only_left = f"1 that only Version 1 gets right No. 8 is 8; Run {second}: 3 (89.2 %)"
    only_right = (
        f"3 that only Run {second} gets right No. 4 is 4; Version 1: 3 (89.6 %) No. 6 is 6; Version 1: 3 (89.4 %) "
        "No. 7 is 7; Version 1: 3 (89.3 %)"
    )
    assert f"{only_left} {only_right}" in page.text
    # Each is cut out of the picture of the model that mistook it.
    assert re.findall(r'viewBox="(\d+ \d+) 28 28"', page.html) == ["28 0", "0 0", "0 28", "28 28"]
    pictures = re.findall(r'<image href="/mnist(\S+)" width="(\d+)" height="(\d+)"/>', page.html)
    assert pictures[0] == (f"/runs/mnist_training/{second}/figures/mistaken.png", "56", "28")
    assert pictures[1:] == [("/models/1/figures/mistaken.png", "56", "56")] * 3
    for picture, *_ in pictures:
        assert browser.get(picture).status == 200


def test_a_mistaken_image_beyond_the_picture_is_named_without_one(
    browser: Browser, home: Workspace, second: str
) -> None:
    assert second
    mistook(home.models / "1", *range(0, 80, 2), pictured=1)
    mistook(home.models / "2")

    page = browser.get("/compare?of=1&of=2")

    assert "0 that only Version 1 gets right" in page.text
    assert "40 that only Version 2 gets right No. 0 is 0; Version 1: 3 (90.0 %) No. 2 is 2" in page.text
    assert "The 24 of which Version 1 is surest are shown." in page.text
    assert page.html.count("<svg") == 1


def test_it_is_said_why_the_images_that_only_one_gets_right_are_unknown(
    browser: Browser, home: Workspace, second: str
) -> None:
    assert second
    mistook(home.models / "2", 1)
    assert "They are unknown: Version 1 has no mistakes.json" in browser.get("/compare?of=1&of=2").text
    mistook(home.models / "1", 1, test_set="6" * 64)
    text = browser.get("/compare?of=1&of=2").text
    assert "They are unknown: the two were measured on different test images." in text
    assert "They were measured on different test images: a difference may come from the images." in text


def test_other_test_images_are_named(browser: Browser, home: Workspace, second: str) -> None:
    path = home.run_folder(second) / "evaluation.json"
    document = json.loads(path.read_text())
    document["candidate"]["dataset"] = "8" * 64
    path.write_text(json.dumps(document))
    text = browser.get(f"/compare?of=1&of=run:{second}").text
    assert "They were measured on different test images" in text


def test_a_run_that_is_not_evaluated_yet_is_compared_as_far_as_it_is_known(
    browser: Browser, home: Workspace, promoted: str
) -> None:
    home.run("begun").mkdir(parents=True, exist_ok=True)
    text = browser.get("/compare?of=1&of=run:begun").text
    assert "accuracy 0.9800 - -" in text
    assert promoted


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("", 400, "0 models are chosen; choose two."),
        ("?of=1", 400, "1 models are chosen; choose two."),
        ("?of=1&of=2&of=1", 400, "3 models are chosen; choose two."),
        ("?of=1&of=7", 404, "has no version 7"),
        ("?of=1&of=run:nobody", 404, "There is no folder of a run nobody."),
        ("?of=1&of=run:../models", 404, ""),
        ("?of=1&of=run:", 404, ""),
        ("?of=1&of=-1", 404, "There is no such version."),
        ("?of=1&of=%ed%a0%80", 404, "There is no such version."),
        ("?of=1&of=<script>alert(1)</script>", 404, "There is no such version."),
    ],
)
def test_what_cannot_be_compared_is_named(
    browser: Browser, home: Workspace, second: str, query: str, status: int, words: str
) -> None:
    assert home.models
    assert second
    assert words in browser.get(f"/compare{query}", status).text
