"""Approval by a person: only if the setting asks for it, and only for candidates that pass the gate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.dag_processing.dagbag import BundleDagBag, DagBag
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import handle_event_submit
from airflow.sdk import DAG
from airflow.triggers.base import TriggerEvent
from airflow.utils.session import create_session
from sqlalchemy import select
from sqlalchemy.orm import joinedload

from mnist_tasks.gate_config import GateConfig
from mnist_tasks.installation import duration
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.system.errors import ModelError
from mnist_tasks.workspace import PROJECT, Workspace
from tests.dags.conftest import DAGS, states
from tests.helpers import ANYTHING, LENIENT

FAST = {"epochs": 1, **ANYTHING}
ADA = {"id": "ada", "name": "Ada Lovelace"}

# The fixture `dags` makes the modules of the DAG folder importable.
pytestmark = pytest.mark.usefixtures("dags")

Answer = Callable[..., None]


@pytest.fixture
def dag(monkeypatch: pytest.MonkeyPatch) -> DAG:
    """The training DAG with approval switched on."""
    monkeypatch.setenv("MNIST_APPROVAL", "24h")
    bag = BundleDagBag(str(DAGS), bundle_path=DAGS, bundle_name="dags-folder")
    assert bag.import_errors == {}
    return bag.dags["mnist_training"]


@pytest.fixture
def answer() -> Iterator[Answer]:
    """A function that answers the next question, as Airflow's API server does with an answer from the UI."""
    threads, stop = [], threading.Event()

    def reply(option: str, user: dict[str, str] | None, **params: Any) -> None:
        """Answer until the task continues, because dag.test may overwrite a quick answer while it is still asking."""
        asked = None
        while not stop.wait(0.1):
            with create_session() as session:
                task = session.scalar(
                    select(TaskInstance)
                    .where(TaskInstance.id == asked if asked else TaskInstance.state == "awaiting_input")
                    .options(joinedload(TaskInstance.hitl_detail))
                )
                if task and task.state == "awaiting_input" and task.hitl_detail:
                    asked, detail = task.id, task.hitl_detail
                    detail.chosen_options, detail.params_input = [option], params
                    detail.responded_by, detail.responded_at = user, datetime.now(timezone.utc)
                    event: Any = TriggerEvent  # TriggerEvent has no annotations
                    event = event(detail.as_resume_event_payload(timedout=user is None))
                    handle_event_submit(event, task_instance=task, session=session)
                elif task and task.state != "scheduled":
                    return

    def start(option: str, user: dict[str, str] | None, **params: Any) -> None:
        threads.append(threading.Thread(target=reply, args=(option, user), kwargs=params))
        threads[-1].start()

    yield start
    stop.set()
    for thread in threads:
        thread.join()


def decision(home: Workspace, run_id: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((home.run(run_id) / "decision.json").read_text())
    return loaded


def test_it_is_off_by_default_and_then_not_even_imported(dags: dict[str, DAG]) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import mnist_training\n"
        "print({'mnist_approve', 'airflow.providers.standard.operators.hitl'} & sys.modules.keys())"
    )
    command = [sys.executable, "-c", script, str(DAGS)]

    assert "approve" not in dags["mnist_training"].task_dict
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "set()\n"


def test_it_stands_between_evaluate_and_promote_and_waits_as_long_as_is_said(dag: DAG) -> None:
    approve: Any = dag.get_task("approve")

    assert (approve.upstream_task_ids, approve.downstream_task_ids) == ({"evaluate"}, {"promote"})
    assert approve.response_timeout == timedelta(hours=24)
    assert (approve.options, approve.defaults, list(approve.params)) == (["Approve", "Reject"], ["Reject"], ["comment"])
    # The time limit of the work before and after the wait. The task has no process while it waits.
    assert approve.execution_timeout == timedelta(minutes=10)


@pytest.mark.parametrize("text", ["24", "h", "-1h", "0h", "1.5h", "24 h", "1h30m", "366d", "99999999d", "yes", "१h"])
def test_a_bad_setting_is_an_import_error_that_names_it(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST_APPROVAL", text)

    (error,) = DagBag(str(DAGS / "mnist_training.py")).import_errors.values()

    assert f"MNIST_APPROVAL: {text!r} is not a time to wait from 1s to 365d" in error


def test_a_candidate_that_is_approved_is_promoted_with_the_name(
    dag: DAG, home: Workspace, npz: Path, answer: Answer
) -> None:
    answer("Approve", ADA, comment="fine,\n looks good")

    run = dag.test(run_conf={**FAST, "source": str(npz)})

    assert (run.state, set(states(run).values())) == ("success", {"success"})
    approval = decision(home, run.run_id)["approval"]
    assert (approval["approved"], approval["by"]) == (True, "Ada Lovelace (ada)")
    assert approval["comment"] == "fine, looks good"
    assert datetime.fromisoformat(approval["at"]) > datetime.now(timezone.utc) - timedelta(minutes=1)
    (event,) = ModelDirectory(home.models).history()
    assert (event.to, event.approved_by) == (1, "Ada Lovelace (ada)")
    assert event.reason.endswith("approved by Ada Lovelace (ada): fine, looks good")


@pytest.mark.parametrize(
    ("user", "params", "reason"),
    [
        ({"id": "ada", "name": "ada"}, {"comment": "looks odd on 7", "more": 1}, "rejected by ada: looks odd on 7"),
        (None, {"comment": None}, "rejected: nobody answered in time"),
    ],
)
def test_a_no_and_no_answer_reject(
    user: dict[str, str] | None,
    params: dict[str, Any],
    reason: str,
    dag: DAG,
    home: Workspace,
    npz: Path,
    answer: Answer,
) -> None:
    answer("Reject", user, **params)

    run = dag.test(run_conf={**FAST, "source": str(npz)})

    assert (run.state, states(run)["approve"], states(run)["promote"]) == ("success", "success", "skipped")
    assert decision(home, run.run_id)["reason"] == reason
    assert ModelDirectory(home.models).champion() is None


def test_an_answer_is_not_asked_for_again_by_a_retry(
    dag: DAG, home: Workspace, npz: Path, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow may fail to store the result of the task. The test would hang if the question were asked again."""
    approve: Any = dag.get_task("approve")
    take, answers = approve.execute_complete, []

    def taken_in_vain(*arguments: Any, **more: Any) -> None:
        answers.append(take(*arguments, **more))
        raise OSError("the API server is gone")

    monkeypatch.setattr(approve, "execute_complete", taken_in_vain)
    monkeypatch.setattr(approve, "retry_delay", timedelta(0))
    answer("Approve", ADA, comment="fine")

    run = dag.test(run_conf={**FAST, "source": str(npz)})

    assert (run.state, len(answers)) == ("success", 1)
    assert decision(home, run.run_id)["approval"] == answers[0]
    assert (answers[0]["approved"], answers[0]["by"], answers[0]["comment"]) == (True, "Ada Lovelace (ada)", "fine")


@pytest.mark.parametrize(
    ("try_number", "max_tries", "retry"), [(1, 2, False), (2, 2, True), (2, 3, False), (3, 3, True)]
)
def test_the_first_try_after_clearing_is_no_retry(try_number: int, max_tries: int, retry: bool, dag: DAG) -> None:
    """Clearing a task raises max_tries to the number of tries so far plus the number of retries."""
    approve: Any = dag.get_task("approve")

    assert approve.is_retry(SimpleNamespace(try_number=try_number, max_tries=max_tries)) is retry


def test_nobody_is_asked_about_a_candidate_that_the_gate_rejects(dag: DAG, home: Workspace, npz: Path) -> None:
    run = dag.test(run_conf={**FAST, "source": str(npz), "min_accuracy": 0.99})

    assert (run.state, states(run)["approve"], states(run)["promote"]) == ("success", "success", "skipped")
    assert not (home.run(run.run_id) / "question.md").exists()
    written = decision(home, run.run_id)
    assert "is below the minimum of 0.9900" in written["reason"]
    assert written["checks"][-1]["verdict"] == "skipped"


def test_nobody_is_asked_where_nothing_has_changed(dag: DAG, home: Workspace, npz: Path, answer: Answer) -> None:
    conf = {**FAST, "source": str(npz), "when_unchanged": "skip"}
    answer("Approve", ADA)
    assert dag.test(run_conf=conf).state == "success"

    run = dag.test(run_conf=conf)

    skipped = dict.fromkeys(("train", "evaluate", "approve", "promote"), "skipped")
    assert (run.state, states(run)) == ("success", {"load": "success", "normalize": "success", **skipped})
    assert decision(home, run.run_id)["outcome"] == "unchanged"


def test_marking_the_question_as_done_is_no_answer(
    dag: DAG, home: Workspace, npz: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = dag.test(run_conf={**FAST, "source": str(npz)}, mark_success_pattern="approve")

    assert (states(run)["approve"], states(run)["promote"]) == ("success", "failed")
    assert "the task approve has given no answer; clear it, so that somebody is asked" in capfd.readouterr().out
    assert ModelDirectory(home.models).versions() == []


def test_the_question_shows_the_accuracies_the_checks_and_the_way_to_the_figures(run: Path) -> None:
    from mnist_approve import question

    evaluation = json.loads((run / "evaluation.json").read_text())
    accuracy = evaluation["candidate"]["accuracy"]
    evaluation["champion"] = {**evaluation["candidate"], "accuracy": accuracy - 0.0125, "version": 3}
    (run / "evaluation.json").write_text(json.dumps(evaluation))

    asked = question(run, LENIENT, "mnist_training", "24 hours")

    assert asked
    subject, body = asked
    against = f"the champion's {accuracy - 0.0125:.4f} (version 3)"
    assert subject == f"Approve the candidate with accuracy {accuracy:.4f}, against {against}?"
    assert f"Run `first`: accuracy **{accuracy:.4f}** against {against}." in body
    assert "(/dags/mnist_training/runs/first/plugin/mnist-run)" in body
    assert f"- passed min_accuracy: accuracy {accuracy:.4f} reaches the minimum of 0.0000" in body
    assert "- skipped min_digit_recall: 10 checks; the closest: recall of digit " in body
    assert body.endswith("Without an answer within 24 hours it is rejected.")
    assert "Forced" not in body


def test_the_question_says_what_is_forced_and_nothing_in_it_is_markup(run: Path) -> None:
    from mnist_approve import question

    forced = GateConfig(**{**ANYTHING, "min_accuracy": 0.99}, force=True, force_reason="Ada\n```\n<b>[x](http://h)</b>")

    asked = question(run, forced, "mnist_training", "24 hours")

    assert asked
    assert "**Forced: it does not pass" in asked[1]
    assert "\n```\nforced (Ada ``` <b>[x](http://h)</b>) although accuracy" in asked[1]
    assert "- failed min_accuracy: " in asked[1]


def test_a_cleared_question_is_asked_again_only_as_it_was(tmp_path: Path) -> None:
    """Airflow shows the first text again, whatever the task asks the second time."""
    from mnist_approve import keep_question

    keep_question(tmp_path / "question.md", ("Approve?", "accuracy 0.98"))
    keep_question(tmp_path / "question.md", ("Approve?", "accuracy 0.98"))

    with pytest.raises(ModelError, match=r"question\.md was asked before .* trigger a new run"):
        keep_question(tmp_path / "question.md", ("Approve?", "accuracy 0.97"))
    assert (tmp_path / "question.md").read_text() == "# Approve?\n\naccuracy 0.98\n"


@pytest.mark.parametrize(
    ("params", "comment"),
    [(None, ""), ({}, ""), ({"comment": 7}, "7"), ({"comment": "x" * 1000}, "x" * 500), ({"other": "text"}, "")],
)
def test_an_odd_comment_costs_no_answer(params: Any, comment: str, dag: DAG, home: Workspace) -> None:
    approve: Any = dag.get_task("approve")
    event = {
        "chosen_options": ["Approve"],
        "params_input": params,
        "responded_at": datetime(2026, 11, 24, tzinfo=timezone.utc),
        "responded_by_user": ADA,
        "timedout": False,
    }

    assert home.root.is_dir()
    assert approve.execute_complete({"run_id": "run"}, event, evaluation="digest") == {
        "evaluation": "digest",
        "approved": True,
        "by": "Ada Lovelace (ada)",
        "at": "2026-11-24T00:00:00+00:00",
        "comment": comment,
    }


@pytest.mark.parametrize(
    ("wait", "words"),
    [("1h", "1 hour"), ("90m", "90 minutes"), ("24h", "1 day"), ("7d", "7 days"), ("1s", "1 second")],
)
def test_the_duration_is_said_in_words(wait: str, words: str) -> None:
    from mnist_approve import in_words

    parsed = duration(wait)

    assert parsed
    assert in_words(parsed) == words


def test_make_run_does_not_start_a_run_that_nobody_could_approve(tmp_path: Path) -> None:
    environment = {**os.environ, "MNIST_HOME": str(tmp_path), "MNIST_APPROVAL": "24h"}
    command = [sys.executable, str(PROJECT / "scripts" / "run.py")]
    start = time.monotonic()

    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert result.returncode == 2
    assert "trigger mnist_training in the UI of make up, or unset MNIST_APPROVAL" in result.stderr
    assert time.monotonic() - start < 600
    assert list(tmp_path.iterdir()) == []
