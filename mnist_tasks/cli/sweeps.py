"""`python -m mnist_tasks sweeps`: what sweeps have tried, and what has won."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mnist_tasks.cli.output import YES, AsJson, answer, table
from mnist_tasks.documents import Sweep, SweepResult, Trial
from mnist_tasks.sweep.records import CLEAR_PLAN, RESULT, SWEEP, best_first, read_trials
from mnist_tasks.system.errors import InputError
from mnist_tasks.workspace import Workspace

app = typer.Typer(help="Look at sweeps.", no_args_is_help=True)


@app.command("list")
def list_sweeps(as_json: AsJson = False) -> int:
    """List all sweeps, the newest first."""
    sweeps = [Sweep.read(path, CLEAR_PLAN) for path in Workspace.from_environment().sweeps.glob(f"*/{SWEEP}")]
    rows = []
    for sweep in sorted(sweeps, key=lambda sweep: sweep.began, reverse=True):
        folder = Workspace.from_environment().sweep_folder(sweep.run_id)
        result = _result(folder)
        trials = [trial for trial in read_trials(folder) if trial.repeats is None]
        rows.append(
            {
                "run": sweep.run_id,
                "began": sweep.began,
                "trials": f"{len(trials)} of {sweep.trials}",
                "winner": result.winner if result else None,
                "mean": result.mean if result else None,
            }
        )
    lines = table(tuple(rows[0]), [row.values() for row in rows]) if rows else ["no sweep yet"]
    answer(rows, lines, as_json)
    return YES


@app.command()
def show(run: Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")], as_json: AsJson = False) -> int:
    """Show the trials of a sweep, the best first, and what has won."""
    folder = Workspace.from_environment().sweep_folder(run)
    if not (folder / SWEEP).exists():
        raise InputError(f"{run}: there is no such sweep; sweeps list shows those that there are")
    result = _result(folder)
    documents = {
        "sweep": Sweep.read(folder / SWEEP, CLEAR_PLAN).to_json_value(),
        "trials": [trial.to_json_value() for trial in read_trials(folder)],
        "result": result.to_json_value() if result else None,
    }
    answer(documents, sweep_table(folder), as_json)
    return YES


def sweep_table(folder: Path) -> list[str]:
    """Lines about a sweep: its trials, the best first, and its result."""
    trials = read_trials(folder)
    if not trials:
        return ["no trial has begun"]
    sweep, result = Sweep.read(folder / SWEEP, CLEAR_PLAN), _result(folder)
    names = list(sweep.space)
    header = ("", "trial", "state", "accuracy", "loss", "seconds", "seed", *names)
    rows = [
        (
            "*" if result and trial.number == result.winner else "",
            trial.number if trial.repeats is None else f"{trial.number} ({trial.repeats} again)",
            trial.state,
            trial.accuracy,
            trial.loss,
            f"{trial.seconds:.1f}" if trial.seconds else None,
            trial.seed,
            *(f"{value:g}" if isinstance(value := trial.parameters.get(name), float) else value for name in names),
        )
        for trial in best_first(trials)
    ]
    lines = table(header, rows)
    if result:
        matters = ", ".join(f"{name} {share:.0%}" for name, share in result.importance.items() if share >= 0.01)
        lines += ["", result.reason, *([f"what matters: {matters}"] if matters else [])]
    return lines


def line(trial: Trial) -> str:
    """A trial on one line."""
    result = f"accuracy {trial.accuracy:.4f}, loss {trial.loss:.4f}" if trial.accuracy is not None else trial.reason
    tried = ", ".join(f"{name} {value}" for name, value in trial.parameters.items())
    again = f" (trial {trial.repeats} with seed {trial.seed})" if trial.repeats is not None else ""
    return f"trial {trial.number}{again}: {trial.state}: {result}: {tried}"


def _result(folder: Path) -> SweepResult | None:
    path = folder / RESULT
    return SweepResult.read(path, "clear the choose task") if path.exists() else None
