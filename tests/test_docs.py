"""The documentation is current: its generated files, links, paths and example."""

from __future__ import annotations

import gzip
import pickle
import re
import textwrap
from pathlib import Path

import generate_docs
import numpy as np
import pytest

from mnist_tasks.data.dataset import Digits
from mnist_tasks.data.sources import read_source
from mnist_tasks.load import load
from mnist_tasks.workspace import PROJECT

PAGES = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")])
NAMES = [str(page.relative_to(PROJECT)) for page in PAGES]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes from a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_generated_files_are_current(tmp_path: Path) -> None:
    generate_docs.main(tmp_path)

    for path in sorted(path for path in tmp_path.rglob("*") if path.is_file()):
        current = PROJECT / "docs" / path.relative_to(tmp_path)
        assert current.is_file(), f"{current} is missing; run make docs"
        assert current.read_text() == path.read_text(), f"{current} is not current; run make docs"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_path_of_the_project_that_it_names_exists(page: Path) -> None:
    folders = "benchmarks|dags|docs|mnist_tasks|plugins|scripts|tests"
    for name in re.findall(rf"`((?:{folders})/[\w./-]*)`", page.read_text(encoding="utf-8")):
        assert (PROJECT / name).exists(), name


def test_the_readme_fits_a_few_screens() -> None:
    assert len((PROJECT / "README.md").read_text().splitlines()) <= 150


def python_examples(page: str) -> list[str]:
    text = (PROJECT / "docs" / page).read_text(encoding="utf-8")
    return [textwrap.dedent(example) for example in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]


@pytest.mark.parametrize("scale", [255, 256], ids=["up to 1", "up to 255/256"])
def test_the_example_that_converts_the_pickle_gives_the_same_digits(
    scale: int, digits: Digits, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    x, x_test = ((array.reshape(-1, 784) / scale).astype(np.float32) for array in (digits.x_train, digits.x_test))
    content = (x[:1500], digits.y_train[:1500]), (x[1500:], digits.y_train[1500:]), (x_test, digits.y_test)
    with gzip.open("mnist.pkl.gz", "wb") as file:
        pickle.dump(content, file, protocol=2)

    exec(python_examples("getting-started.md")[0], {})  # noqa: S102 - our own page

    assert read_source(tmp_path / "mnist.npz").digest() == digits.digest()


def test_the_example_that_calls_the_tasks_runs(
    npz: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    example = python_examples("getting-started.md")[1]
    # Two thousand images are enough to show that the example runs.
    monkeypatch.setattr("mnist_tasks.load.load", lambda _, datasets: load(str(npz), datasets))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    exec(example, {})  # noqa: S102 - our own page

    assert "Trained(digest=" in capsys.readouterr().out
    assert list(tmp_path.glob("*/model.keras"))
