"""The model card: the Hub can read its front matter, and no text in it acts as markup."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mnist_tasks.documents import DecisionRecord, Evaluation, Metadata
from mnist_tasks.gate_config import GateConfig
from mnist_tasks.promote import promote
from mnist_tasks.registry.model_card import FIGURES, model_card
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.rollback import roll_back
from mnist_tasks.registry.version import Version
from mnist_tasks.workspace import Workspace
from tests.helpers import LENIENT

Documents = dict[str, dict[str, Any]]

# Text that could end a table cell, a quote or the front matter, or act as HTML or Markdown.
HOSTILE = 'a|b\n\n---\n# heading\n<script>alert("x")</script> ![i](http://h/i.png) [l](http://h) `c` *e* _e_ \\| &lt;'


@pytest.fixture
def published(run: Path, workspace: Workspace) -> Version:
    """A real version, promoted from a real run."""
    promote(run, workspace.models, LENIENT)
    return ModelDirectory(workspace.models).version("1")


@pytest.fixture
def documents(published: Version) -> Documents:
    """The documents from which the model card is made."""
    return {
        "metadata": published.metadata().to_json_value(),
        "evaluation": published.evaluation().to_json_value(),
        "decision": published.decision().to_json_value(),
    }


def card_of(documents: Documents) -> str:
    return model_card(
        Metadata.model_validate_json(json.dumps(documents["metadata"])),
        Evaluation.model_validate_json(json.dumps(documents["evaluation"])),
        DecisionRecord.model_validate_json(json.dumps(documents["decision"])),
    )


def front_matter(card: str) -> dict[str, Any]:
    start, text, _ = re.split(r"^---$\n", card, maxsplit=2, flags=re.MULTILINE)
    assert start == ""
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def table_after(card: str, heading: str) -> list[list[str]]:
    """Return the body rows of the first table after a heading; a cell ends at a `|` that is not escaped."""
    lines = card.split(f"\n{heading}\n", 1)[1].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1]])
    return rows[2:]


def test_the_hub_can_read_the_front_matter(published: Version, documents: Documents) -> None:
    # https://huggingface.co/docs/hub/model-cards and the Hub's modelcard.md list the names and the required fields.
    found = front_matter(published.card())

    assert (found["library_name"], found["pipeline_tag"]) == ("keras", "image-classification")
    assert all(isinstance(tag, str) for tag in found["tags"])
    (model,) = found["model-index"]
    assert model["name"] == "mnist-mlp"
    (result,) = model["results"]
    assert result["task"]["type"] == "image-classification"
    evaluation = documents["evaluation"]
    assert result["dataset"] == {
        "name": evaluation["source"],
        "type": "image-classification",
        "split": "test",
        "revision": evaluation["dataset"],
    }
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {
        name: evaluation["candidate"][name] for name in ("accuracy", "loss")
    }


@pytest.mark.parametrize("source", ["builtin", "keras"])
def test_mnist_is_named_as_the_hub_names_it(source: str, documents: Documents) -> None:
    documents["evaluation"]["source"] = source

    card = card_of(documents)

    (result,) = front_matter(card)["model-index"][0]["results"]
    assert (result["dataset"]["type"], result["dataset"]["name"]) == ("mnist", "MNIST")
    assert "test images of MNIST |" in card


def test_the_card_of_a_version_is_made_of_its_documents(published: Version, documents: Documents) -> None:
    del documents["metadata"]["sha256"]

    assert published.card() == card_of(documents)


def test_every_file_that_it_names_is_in_the_version(published: Version) -> None:
    card = published.card()

    figures = re.findall(r"^!\[.*\]\((.*)\)$", card, re.MULTILINE)
    without_champion = ("figures/lost.png", "figures/gained.png")
    assert figures == [name for name in FIGURES if name not in without_champion]
    for name in (*figures, *re.findall(r'load_model\("(.*?)"\)', card)):
        assert (published.folder / name).stat().st_size


def test_each_digit_has_a_row(published: Version, documents: Documents) -> None:
    rows = table_after(published.card(), "## Each digit")

    assert [row[0] for row in rows] == [str(digit) for digit in range(10)]
    for row, entry in zip(rows, documents["evaluation"]["candidate"]["digits"], strict=True):
        assert row[1:] == [str(entry["support"]), *(f"{entry[name]:.4f}" for name in ("precision", "recall", "f1"))]


def test_a_digit_without_images_has_no_share(documents: Documents) -> None:
    documents["evaluation"]["candidate"]["digits"][8].update(support=0, recall=None, f1=None)

    precision = documents["evaluation"]["candidate"]["digits"][8]["precision"]
    assert table_after(card_of(documents), "## Each digit")[8] == ["8", "0", f"{precision:.4f}", "-", "-"]


def test_a_forced_version_is_marked(run: Path, workspace: Workspace) -> None:
    promote(run, workspace.models, GateConfig(min_accuracy=0.99, force=True, force_reason="Ann: the old one has to go"))

    card = ModelDirectory(workspace.models).version("1").card()

    assert "> **Forced.** It did not pass its quality checks: forced (Ann: the old one has to go) although" in card


def test_a_usual_version_is_not_marked(published: Version) -> None:
    assert "\n>" not in published.card()


@pytest.mark.usefixtures("published")
def test_a_restored_version_is_marked(workspace: Workspace) -> None:
    models = ModelDirectory(workspace.models)
    second = workspace.run("second")
    (workspace.root / "runs" / "first").rename(second.with_name("moved"))
    second.rmdir()
    second.with_name("moved").rename(second)
    evaluation = json.loads((second / "evaluation.json").read_text())
    evaluation["champion"] = {**copy.deepcopy(evaluation["candidate"]), "version": 1}
    (second / "evaluation.json").write_text(json.dumps(evaluation))
    promote(second, workspace.models, LENIENT)

    restored = roll_back(models, reason="8s are\nmissed", published_by="ann", smoke_test=lambda _: None)

    card = restored.card()
    assert "# Handwritten digits, version 3\n" in card
    assert "\n> The files are those of version 1, published again: 8s are missed (instead of version 2).\n" in card
    assert ["published", f"{restored.metadata().published}, by ann"] in table_after(card, f"# {card_title(card)}")


def card_title(card: str) -> str:
    title = re.search(r"^# (.*)$", card, re.MULTILINE)
    assert title
    return title[1]


def test_what_people_write_stays_text(documents: Documents) -> None:
    documents["evaluation"]["source"] = HOSTILE
    documents["decision"].update(forced=True, reason=HOSTILE)
    documents["metadata"].update(restores=1, replaces=2, reason=HOSTILE, published_by=HOSTILE, run_id=HOSTILE)
    harmless = {name: dict(document) for name, document in documents.items()}
    harmless["evaluation"]["source"] = harmless["decision"]["reason"] = "text"
    harmless["metadata"].update(reason="text", published_by="text", run_id="text")

    card = card_of(documents)

    (result,) = front_matter(card)["model-index"][0]["results"]
    assert result["dataset"]["name"] == HOSTILE
    body, expected = (
        re.split(r"^---$\n", text, maxsplit=2, flags=re.MULTILINE)[2] for text in (card, card_of(harmless))
    )
    assert len(body.splitlines()) == len(expected.splitlines())
    unescaped = re.sub(r"\\[^\w\s]", "", body)
    for construct in ("<", "](http", "a|b", "*e*", "`c`", "_e_ ", "&"):
        assert construct not in unescaped, construct
    for heading in (f"# {card_title(card)}", "## How it was made"):
        assert {len(row) for row in table_after(card, heading)} == {2}


def test_names_stay_legible(published: Version) -> None:
    assert "| hidden_units | 128 |" in published.card()
