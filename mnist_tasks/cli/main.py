"""The command line, `mnist` or `python -m mnist_tasks`: the model directory, predictions, and training a version again.

Exit status 0: done, or yes; 1: no, something differs, is damaged or unsure; 2: failed.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mnist_tasks import installation
from mnist_tasks.cli import models, sweeps
from mnist_tasks.cli.mirror import mirror
from mnist_tasks.cli.output import FAILED, NO, YES, AsJson, answer, printable, writing
from mnist_tasks.cli.serve_check import serve_check
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.transfer import export_version, import_version
from mnist_tasks.system.disk_space import explained_disk_errors
from mnist_tasks.system.errors import InputError, TaskError
from mnist_tasks.workspace import Workspace

UNSURE_BELOW = 0.9  # measured by benchmarks.pictures


def _exit(status: int) -> None:
    """End the program with the status that a command has returned."""
    raise typer.Exit(status)


app = typer.Typer(
    name="mnist",
    result_callback=_exit,
    help="The model directory in MNIST_HOME. Exit status 0: done, or yes; 1: no, something differs, is damaged or "
    "unsure; 2: failed.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(models.app, name="models")
app.add_typer(sweeps.app, name="sweeps")
app.command()(mirror)
app.command()(serve_check)


TarFile = Annotated[Path, typer.Argument(metavar="FILE", help="A tar file.")]


def run() -> None:
    """Run the command line and exit with the command's status."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if not logging.getLogger().handlers:
        # Not to descriptor 2 itself, from which `tensorflow_in_airflow` reads what TensorFlow writes.
        stderr = os.fdopen(os.dup(2), "w", errors="backslashreplace")
        level = logging.INFO if arguments[:1] == ["reproduce"] else logging.WARNING
        logging.basicConfig(level=level, format="%(message)s", stream=stderr)
    try:
        with explained_disk_errors(Workspace.from_environment().root, below=True):
            app(arguments)
        return YES
    except SystemExit as exit_:  # also after a usage error, of which Typer has told
        return int(exit_.code or YES)
    except (TaskError, OSError, MemoryError) as error:
        print(printable(f"failed: {error or 'out of memory'}"), file=sys.stderr)
        return FAILED


@app.command()
def predict(
    image: Annotated[list[Path], typer.Argument(help="A picture of one digit, or a folder of such pictures.")],
    version: Annotated[str, typer.Option(metavar="VERSION", help="A version's number.")] = "champion",
    unsure_below: Annotated[
        float, typer.Option(min=0, max=1, help="An answer with a lower probability is unsure.")
    ] = UNSURE_BELOW,
    sheet: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw what the model got into this file.")] = None,
    as_json: AsJson = False,
) -> int:
    """Say which digits pictures show, and how probable each digit is. Exit status 1: an answer is unsure."""
    if sheet and not sheet.parent.is_dir():
        raise InputError(f"--sheet: {sheet.parent} is not a folder; make it first")
    directory = ModelDirectory(Workspace.from_environment().models)
    chosen = directory.version(version)
    directory.verify(chosen)
    # Not before the checks: it imports NumPy, Pillow and TensorFlow, which takes seconds.
    from mnist_tasks.cli.predict import draw, pictures, predict_images

    predictions = predict_images(chosen, pictures(image), unsure_below)
    lines = [prediction.line() for prediction in predictions if not prediction.error]
    if lines or as_json:
        answer([prediction.to_json_value(chosen.number) for prediction in predictions], lines, as_json)
    for prediction in predictions:
        if prediction.error:
            print(printable(f"failed: {prediction.error}"), file=sys.stderr)
    if sheet and lines:
        draw(predictions, sheet)
    statuses = {prediction.status for prediction in predictions}
    return FAILED if "failed" in statuses else NO if "unsure" in statuses else YES


@app.command("export")
def export_(version: models.WhichVersion, file: TarFile, as_json: AsJson = False) -> int:
    """Write a version with its documents into a tar file, to import it in another installation."""
    directory = ModelDirectory(Workspace.from_environment().models)
    chosen = directory.version(version)
    export_version(directory, chosen, file)
    answer({"version": chosen.number, "file": str(file)}, [f"version {chosen.number} is in {file}"], as_json)
    return YES


@app.command("import")
def import_(file: TarFile, reason: models.Reason, as_json: AsJson = False) -> int:
    """Publish an exported version as the next one here, and make it champion."""
    directory = ModelDirectory(Workspace.from_environment().models)
    with writing(directory):
        version = import_version(directory, file, reason=reason, published_by=models.user())
    metadata = version.metadata()
    there = metadata.imported_from.version if metadata.imported_from else None
    text = f"version {version.number} is champion: version {there} of the installation that it came from"
    answer(metadata.to_json_value(), [text], as_json)
    return YES


@app.command("clean")
def clean_up(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: AsJson = False,
) -> int:
    """Remove old runs' working files, old versions and unused datasets, as the settings MNIST_KEEP_... say."""
    from mnist_tasks.clean import clean

    cleaned = clean(
        Workspace.from_environment(),
        keep_runs=installation.value("MNIST_KEEP_RUNS"),
        keep_versions=installation.value("MNIST_KEEP_VERSIONS"),
        reference=installation.value("MNIST_PARAMS").get("reference"),
        dry_run=dry_run,
    )
    answer(asdict(cleaned), [str(cleaned)], as_json)
    return YES


@app.command()
def reproduce(version: models.WhichVersion, as_json: AsJson = False) -> int:
    """Train a version again from its metadata and compare the weights."""
    workspace = Workspace.from_environment()
    chosen = ModelDirectory(workspace.models).version(version)
    from mnist_tasks.cli.reproduce import reproduce
    from mnist_tasks.system.tensorflow_setup import tensorflow_in_airflow

    with tensorflow_in_airflow():
        differences = reproduce(chosen, workspace)
    answer(differences, differences or ["identical"], as_json)
    return NO if differences else YES
