"""How commands answer: exit statuses, JSON, tables, and text that is safe for any terminal."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.system.disk_space import explained_disk_errors
from mnist_tasks.system.errors import InputError, TaskError
from mnist_tasks.system.suggestions import CLI

# What a command says by its exit status: yes, or done; no: something differs or is damaged; it has failed.
YES, NO, FAILED = 0, 1, 2

CELL_CHARACTERS = 200  # of a table; JSON has all of them
GAP = 2  # blanks between the columns of a table
PIPE_WIDTH = 100_000  # of a table that no terminal shows: nothing is wrapped

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def answer(value: Any, lines: Iterable[str], as_json: bool) -> None:
    """Print a value as JSON, or lines of text about it."""
    text = json.dumps(value, indent=2) if as_json else "\n".join(lines)
    try:
        print(printable(text), flush=True)
    except BrokenPipeError:  # `| head` has read enough; the exit status is the command's all the same
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still in the buffer


def printable(text: str) -> str:
    """The text with escape sequences to read, where a character would control a terminal or has no encoding there."""
    encoding = sys.stdout.encoding or "utf-8"
    text = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
    return text.encode(encoding, "backslashreplace").decode(encoding)


def table(header: Sequence[str], rows: Iterable[Iterable[Any]]) -> list[str]:
    """Lines of a table: wrapped to the terminal's width, or as wide as it takes if it is piped."""
    from rich.cells import cell_len

    texts = [[printable(_cell(value)) for value in row] for row in (header, *rows)]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_WIDTH
    widths = [max(map(cell_len, column)) for column in zip(*texts, strict=True)]
    if sum(widths) + GAP * (len(widths) - 1) > width or any("\n" in text for row in texts for text in row):
        return _wrapped(texts, width)
    # Nothing has to be wrapped: ten times as fast for thousands of rows.
    gap = " " * GAP
    return [
        gap.join(text + " " * (size - cell_len(text)) for text, size in zip(row, widths, strict=True)).rstrip()
        for row in texts
    ]


def _wrapped(texts: Sequence[Sequence[str]], width: int) -> list[str]:
    """Lines of a table that is wrapped to a width; the first row is its header."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    columns = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), show_header=True, header_style="")
    for name in texts[0]:
        columns.add_column(name, overflow="fold")
    for row in texts[1:]:
        columns.add_row(*map(Text, row))
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(columns)
    return [line.rstrip() for line in capture.get().splitlines()]


@contextmanager
def writing(models: ModelDirectory) -> Iterator[None]:
    """Add to the message of an error in the block, a command that writes, who is champion now.

    If the block changes that, say which copies elsewhere do not know it yet.
    """
    before = models.linked_number()
    try:
        with explained_disk_errors(models.root.parent, below=True):
            yield
    except InputError:
        raise
    except (TaskError, OSError, MemoryError) as error:
        raise TaskError(f"{error or 'out of memory'}; {models.describe_champion()}") from error
    if models.linked_number() != before:
        if os.environ.get("MNIST_MIRROR"):
            print(f"the mirror has the champion before; bring it up to date with {CLI} mirror", file=sys.stderr)
        if os.environ.get("MNIST_MLFLOW"):
            print("the alias in MLflow moves at the end of the next run of mnist_training", file=sys.stderr)


def _cell(value: Any) -> str:
    """A value on one line, not longer than can be read in a table."""
    text = f"{value:.4f}" if isinstance(value, float) else "-" if value is None else " ".join(str(value).split())
    return text if len(text) <= CELL_CHARACTERS else f"{text[: CELL_CHARACTERS - 3]}..."
