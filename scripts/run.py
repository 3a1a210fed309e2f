"""`make run`: one run of mnist_training through the real scheduler, followed to its end.

Arguments are parameters of the run, such as `epochs=3 min_accuracy=0.98`. The exit status is 0 if the model was
promoted, or is champion already as nothing has changed, 1 if it was rejected, or would be again as nothing has changed,
and 2 if anything failed but the record in MLflow, which decides nothing.
"""

from __future__ import annotations

import entry

if __name__ == "__main__":
    entry.start()

import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from airflow_api import DAG, UNFINISHED, LaunchError, Run, describe, fail_interrupted, require_dag
from local_airflow import free_port, local_airflow
from process_tree import Stopped, stop_on_signals
from progress import say, waiting

from mnist_tasks import installation
from mnist_tasks.data.sources import find
from mnist_tasks.documents import DecisionRecord, TrainingProgress
from mnist_tasks.registry import outcome as became
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.run_parameters import RunConfig, run_form
from mnist_tasks.system.errors import ModelError, TaskError
from mnist_tasks.workspace import Workspace

PROMOTED, REJECTED, FAILED = 0, 1, 2

TASKS = ("load", "normalize", "train", "evaluate", "promote")
ELSEWHERE = ("mirror", "mlflow")  # only if a setting asks for them
POLL_SECONDS = 0.3


def main(arguments: list[str]) -> int:
    """Run the DAG once and return the exit status."""
    return exit_status(lambda: run_once(arguments), stopped)


def stopped() -> str:
    """What to say after a signal: the run is failed, and who is champion now."""
    champion_now = ModelDirectory(Workspace.from_environment().models).describe_champion()
    return f"stopped; the run is marked as failed; {champion_now}"


def run_once(arguments: list[str]) -> int:
    """Start Airflow, run the DAG once, stop Airflow, and return the exit status."""
    parameters = parse(arguments)
    find(check(parameters).data.source)
    if installation.value("MNIST_APPROVAL"):
        raise LaunchError(
            "MNIST_APPROVAL is set, and this command has no UI in which a person could approve the model; trigger "
            "mnist_training in the UI of make up, or unset MNIST_APPROVAL"
        )
    workspace = Workspace.from_environment()
    with started(workspace, parameters, DAG) as run:
        return follow(run, workspace)


@contextmanager
def started(workspace: Workspace, parameters: dict[str, Any], *dags: str) -> Iterator[Run]:
    """An Airflow with a run of the first DAG, in the block. If the block is left by an error, the run is failed.

    Args:
        workspace: the workspace.
        parameters: the run's.
        dags: what Airflow must be able to run.
    """
    workspace.prepare()
    with tempfile.TemporaryDirectory() as private:
        passwords = Path(private) / "passwords.json"
        # Only this run is started, and not a nightly one that is due.
        settings = {"AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False"}
        services = {"scheduler": ("scheduler", "--skip-serve-logs")}
        with (
            local_airflow(workspace, free_port(), passwords, services, settings) as airflow,
            airflow.client() as client,
        ):
            for dag in dags:
                if paused := require_dag(client, airflow.by_hand, dag):
                    raise LaunchError(paused)
            fail_interrupted(client)
            run = Run.trigger(client, parameters, airflow.home / "logs", airflow.check_services, dags[0])
            try:
                yield run
            except BaseException:
                run.fail()
                raise


def check(parameters: dict[str, Any]) -> RunConfig:
    """Refuse settings and parameters that the DAG would refuse, before anything starts."""
    installation.check()
    return RunConfig.from_parameters({**installation.value("MNIST_PARAMS"), **parameters})


def exit_status(work: Callable[[], int], stopped: Callable[[], str]) -> int:
    """Do the work and return its exit status. Print the error if it fails, and the text of `stopped` after a signal."""
    try:
        return work()
    except (LaunchError, TaskError) as error:
        print(f"failed: {error}", file=sys.stderr)
    except httpx.HTTPStatusError as error:
        print(f"failed: {describe(error)}", file=sys.stderr)
    except Stopped:
        print(stopped(), file=sys.stderr)
    except Exception:
        # Python ends with status 1 after an uncaught exception, which would say "rejected".
        traceback.print_exc()
    return FAILED


def parse(arguments: Iterable[str], form: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """Parse `name=value`. The value of a text parameter stays as it was typed; any other is read as JSON.

    Args:
        arguments: what was typed.
        form: the fields that there are, by section; those of a training run if None.
    """
    schemas = {name: schema for fields in (form or run_form()).values() for name, schema in fields.items()}
    parameters: dict[str, Any] = {}
    for argument in arguments:
        name, separator, value = argument.partition("=")
        if not separator:
            raise LaunchError(f"{argument!r} is not a parameter; write name=value, such as epochs=3")
        parameters[name] = value
        if "string" not in schemas.get(name, {}).get("type", "string"):
            with suppress(ValueError):  # which the check of the parameter names
                parameters[name] = json.loads(value)
    return parameters


@dataclass
class Seen:
    """What has been printed about a task: its state, the try, how much of its log, and the last error in the log.

    `folded` is whether the log is within a group of lines that Airflow's UI folds.
    """

    state: str | None = None
    try_number: int = 0
    log_bytes: int = 0
    reason: str | None = None
    folded: bool = False


def follow(run: Run, workspace: Workspace) -> int:
    """Print the progress of a run until it ends, then its outcome; return the exit status."""
    say(f"{DAG} {run.id}")
    seen = {name: Seen() for name in (*TASKS, *ELSEWHERE)}
    folder = workspace.run_folder(run.id)
    with waiting(lambda seconds: f"    {at_work(seen, folder)}, {seconds:.0f} s after the trigger"):
        while True:
            state = run.get()
            tasks = {task["task_id"]: task for task in run.get("/taskInstances")["task_instances"]}
            for name in seen:
                if name in tasks:
                    show(run, tasks[name], seen[name])
            if state["state"] not in UNFINISHED:
                break
            time.sleep(POLL_SECONDS)
    queued, ended = (datetime.fromisoformat(state[key].replace("Z", "+00:00")) for key in ("queued_at", "end_date"))
    print(f"{DAG} {state['state']} {(ended - queued).total_seconds():.1f} s after it was triggered\n")
    status = outcome(tasks["promote"]["state"], workspace, folder)
    failed = [name for name in ELSEWHERE if name in tasks and tasks[name]["state"] == "failed"]
    if failed:
        print(f"failed: {' and '.join(failed)}; the log above says why, and the next run tries again")
    return FAILED if "mirror" in failed else status


def at_work(seen: dict[str, Seen], folder: Path) -> str:
    """What the run is doing, from its tasks and its folder."""
    running = [name for name, task in seen.items() if task.state == "running"]
    if "train" in running:
        with suppress(ModelError, OSError):  # the file is there only within an epoch of some seconds
            now = TrainingProgress.read(folder / "progress.json", "")
            return (
                f"epoch {now.epoch}/{now.epochs}: {now.images:,} of {now.of:,} images, loss {now.points[-1].loss:.4f}"
            )
    return f"{' and '.join(running)} is running" if running else "waiting for the next task"


def show(run: Run, task: dict[str, Any], seen: Seen) -> None:
    """Print what is new about a task since the last call."""
    state, try_number = task["state"], task["try_number"]
    if try_number != seen.try_number:
        seen.try_number, seen.log_bytes, seen.reason, seen.folded = try_number, 0, None, False
    for line in new_lines(run.log_path(task["task_id"], try_number), seen):
        if line["event"].startswith("::"):
            seen.folded = line["event"].startswith("::group::")
            continue
        ours = line.get("logger", "").startswith("mnist_tasks")
        failed = line["level"] in ("error", "critical")
        if failed or (ours and (line["level"] == "warning" or not seen.folded)):
            text = ": ".join([line["event"], *(error["exc_value"] for error in line.get("error_detail", [])[:1])])
            say(f"    {text}")
            if failed:
                seen.reason = text
    if state != seen.state and state not in (None, "scheduled", "queued"):
        if state in ("failed", "up_for_retry") and seen.reason is None and task["end_date"]:
            services = run.logs / "services" / "scheduler.log"
            also = f"; the scheduler's may: {services}" if services.exists() else ""
            say(f"    its log does not say why, as a process that is killed cannot{also}")
        again = f", try {try_number}" if try_number > 1 else ""
        then = run.next_try(task) if state == "up_for_retry" else ""
        say(f"  {task['task_id']}: {state}{again}{then}")
    seen.state = state


def new_lines(path: Path, seen: Seen) -> list[dict[str, Any]]:
    """The complete lines that were added to a log since the last call."""
    if not path.exists():
        return []
    with path.open("rb") as log:
        log.seek(seen.log_bytes)
        whole = log.read().rpartition(b"\n")[0]
    seen.log_bytes += len(whole) + 1 if whole else 0
    return [json.loads(line) for line in whole.splitlines()]


def outcome(promote: str | None, workspace: Workspace, folder: Path) -> int:
    """Print the outcome of a run, from its decision and the model directory; return the exit status.

    Args:
        promote: the state of the task promote.
        workspace: the workspace with the model directory.
        folder: the run's folder.
    """
    models = ModelDirectory(workspace.models)
    path = folder / "decision.json"
    decision = DecisionRecord.read(path, "clear the promote task") if path.exists() else DecisionRecord()
    said, version = decision.outcome, became.version_of(decision, folder, models)
    champion_now = models.describe_champion()
    unpublished = said in (became.APPROVED, became.PROMOTED) and version is None
    # A rejection skips the task, or fails it with on_rejection=fail.
    ended = promote in ("success", "skipped") or (promote == "failed" and said == became.REJECTED)
    if not said or unpublished or not ended:
        known = f"version {version} is published, but the task promote has not ended well; " if version else ""
        known = f"{became.not_published(decision)}; " if unpublished else known
        print(f"failed: {known}the task's log above says why; {champion_now}")
        return FAILED
    if said == became.UNCHANGED:
        print(f"unchanged: {decision.reason}\n  decision  {os.path.relpath(path)}\n  champion  {champion_now}")
        return REJECTED if decision.rejected_in else PROMOTED
    print(f"{f'promoted as version {version}' if version else 'rejected'}: {decision.reason}")
    if decision.candidate_accuracy is not None:
        print(f"  accuracy  {decision.candidate_accuracy:.4f}")
    print(f"  decision  {os.path.relpath(path)}")
    model = os.path.relpath(models.link / "model.keras")
    print(f"  model     {model}" if version else f"  champion  {champion_now}")
    return PROMOTED if version else REJECTED


if __name__ == "__main__":
    stop_on_signals()
    entry.end(main(sys.argv[1:]))
