"""`make sweep`: one sweep through the real scheduler, and the training of what wins, followed to their end.

Arguments are parameters of the sweep, such as `trials=8 preset=cnn`. The exit status is that of `make run` for the
training of the winner.
"""

from __future__ import annotations

import entry

if __name__ == "__main__":
    entry.start()

import os
import sys
import time
from typing import Any

from airflow_api import DAG, SWEEP, UNFINISHED, LaunchError, Run
from process_tree import stop_on_signals
from progress import say, waiting
from run import FAILED, POLL_SECONDS, Seen, exit_status, follow, parse, show, started, stopped

from mnist_tasks import installation
from mnist_tasks.cli.sweeps import line, sweep_table
from mnist_tasks.data.sources import find
from mnist_tasks.run_parameters import split_sweep, sweep_form
from mnist_tasks.sweep.plan import check_sweep
from mnist_tasks.sweep.records import read_trials
from mnist_tasks.system.parameters import check
from mnist_tasks.workspace import Workspace

ONCE = ("load", "normalize", "plan", "finalists", "choose")  # the tasks that are not mapped


def main(arguments: list[str]) -> int:
    """Run a sweep and the training of what wins; return the exit status."""
    return exit_status(lambda: run_once(arguments), stopped)


def run_once(arguments: list[str]) -> int:
    """Start Airflow, run the sweep and the training, stop Airflow, and return the exit status."""
    parameters = parse(arguments, sweep_form())
    check({name: schema for fields in sweep_form().values() for name, schema in fields.items()}, parameters)
    installation.check()
    if installation.value("MNIST_APPROVAL"):
        raise LaunchError("MNIST_APPROVAL is set, and this command has no UI in which a person could approve the model")
    data, sweep = split_sweep(parameters)
    check_sweep(sweep)
    find(data.source)
    # One trial uses the whole machine already, and one at a time gives the same winner each time.
    os.environ.setdefault("MNIST_SWEEP_PARALLEL", "1")
    workspace = Workspace.from_environment()
    with started(workspace, parameters, SWEEP, DAG) as run:
        return follow_sweep(run, workspace)


def follow_sweep(run: Run, workspace: Workspace) -> int:
    """Print the progress of a sweep until it ends, its trials, and the progress of the training that it triggers."""
    say(f"{SWEEP} {run.id}")
    folder = workspace.sweep_folder(run.id)
    seen = {name: Seen() for name in ONCE}
    states: dict[int, str] = {}

    def waits(seconds: float) -> str:
        at_work = [number for number, state in states.items() if state == "running"]
        running = [name for name, task in seen.items() if task.state == "running"]
        what = f"trial {', '.join(map(str, at_work))}" if at_work else " and ".join(running) or "the next task"
        return f"    waiting for {what}, {seconds:.0f} s after the trigger"

    with waiting(waits):
        while True:
            state = run.get()["state"]
            tasks: list[dict[str, Any]] = run.get("/taskInstances?limit=1000")["task_instances"]
            for task in tasks:
                if task["task_id"] in seen:
                    show(run, task, seen[task["task_id"]])
            for trial in read_trials(folder):
                if trial.state != states.get(trial.number) and trial.state != "running":
                    say(f"  {line(trial)}")
                states[trial.number] = trial.state
            if state not in UNFINISHED:
                break
            time.sleep(POLL_SECONDS)
    say("")
    for text in sweep_table(folder):
        say(text)
    say("")
    triggered = next((task for task in tasks if task["task_id"] == "train_the_winner"), None)
    if state != "success" or not triggered or triggered["state"] != "success":
        say("failed: the lines above say why; nothing is trained")
        return FAILED
    key = run.get("/taskInstances/train_the_winner/xcomEntries/trigger_run_id")["value"]
    training = Run(run.client, key, run.logs, run.check)
    try:
        return follow(training, workspace)
    except BaseException:
        training.fail()
        raise


if __name__ == "__main__":
    stop_on_signals()
    entry.end(main(sys.argv[1:]))
