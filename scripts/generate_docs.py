"""Generate `docs/parameters.md` and `docs/schemas/` from the code that they describe.

Usage: generate_docs.py [FOLDER]; by default `docs` in the checkout.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mnist_tasks import documents
from mnist_tasks.installation import SETTINGS
from mnist_tasks.run_parameters import rollback_form, run_form, sweep_form
from mnist_tasks.workspace import PROJECT

# The name of each JSON file, and its model.
FILES: Mapping[str, type[documents.JsonFile]] = {
    "dataset": documents.DatasetDescription,
    "validation": documents.ValidationReport,
    "training": documents.Training,
    "history": documents.TrainingHistory,
    "evaluation": documents.Evaluation,
    "mistakes": documents.Mistakes,
    "decision": documents.DecisionRecord,
    "metadata": documents.Metadata,
    "rejected": documents.LastRejection,
    "mirror-champion": documents.MirroredChampion,
    "history-line": documents.HistoryEvent,
    "sweep": documents.Sweep,
    "trial": documents.Trial,
    "sweep-result": documents.SweepResult,
}

HEAD = """\
# Parameters

This page answers: what can a run be told, and what can an installation be set to? It is generated from the code by
`make docs`.

Parameters go behind `make run` and `make stack-run`, into the trigger form in the UI, or into the setting
`MNIST_PARAMS` for every run. A value out of bounds is refused everywhere with the same words.
"""

SETTINGS_HEAD = """\
## Settings

Environment variables of an installation, read before there is a run. A setting that cannot be used, or an unknown one,
is named before anything starts. TensorFlow's own `TF_NUM_INTRAOP_THREADS` is 1 and `TF_NUM_INTEROP_THREADS` is 2 while
it trains, unless you set them: an operation of microseconds is faster on one thread, and two run side by side.
"""


def parameters() -> str:
    """The page about the parameters and settings, in Markdown."""
    lines = [HEAD]
    for section, fields in {**run_form(), **rollback_form(), "Sweep": sweep_form()["Sweep"]}.items():
        lines += [f"## {section}", "", "| parameter | default | allowed | what it does |", "|---|---|---|---|"]
        lines += [
            _row(f"`{name}`", _value(schema.get("default")), _allowed(schema), schema["description"])
            for name, schema in fields.items()
        ]
        lines.append("")
    lines += [SETTINGS_HEAD, "| setting | default | what it does |", "|---|---|---|"]
    lines += [
        _row(f"`{name}`", _value(setting.default or None), setting.description) for name, setting in SETTINGS.items()
    ]
    return "\n".join(lines) + "\n"


def schemas() -> Iterator[tuple[str, str]]:
    """The name and the content of each JSON schema."""
    for name, model in FILES.items():
        yield f"{name}.schema.json", json.dumps(model.model_json_schema(), indent=2) + "\n"


def _row(*cells: str) -> str:
    return f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |"


def _value(value: Any) -> str:
    return "" if value is None else f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _allowed(schema: Mapping[str, Any]) -> str:
    """The values that a parameter may have."""
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"] if value is not None)
    bounds = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    return ", ".join(f"{words} {schema[name]:,}" for name, words in bounds.items() if name in schema)


def main(folder: Path) -> None:
    """Write the generated files into a folder."""
    (folder / "schemas").mkdir(parents=True, exist_ok=True)
    (folder / "parameters.md").write_text(parameters(), encoding="utf-8")
    for name, text in schemas():
        (folder / "schemas" / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PROJECT / "docs")
