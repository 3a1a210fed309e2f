"""The task in which a person approves or rejects a candidate; imported only if MNIST_APPROVAL is set."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param
from airflow.sdk.exceptions import TaskAwaitingInput
from mnist_common import Context, kept_parameters, model_page, no_retry_for_bad_input, skip_as_before
from mnist_notify import share, tell, waiting

from mnist_tasks.documents import Approval
from mnist_tasks.gate_config import GateConfig
from mnist_tasks.system.errors import ModelError
from mnist_tasks.workspace import Workspace

APPROVE, REJECT = "Approve", "Reject"
ANSWER = "answer.json"  # in the run's folder, for a retry
COMMENT = "comment"  # the answer's free text
MAX_COMMENT_CHARACTERS = 500


class Approve(HITLOperator):
    """Asks a person for approval if the candidate passes the gate; returns the answer as a `documents.Approval`.

    Args:
        wait: how long to wait for an answer. Without an answer the candidate is rejected.
    """

    def __init__(self, *, wait: timedelta, **arguments: Any) -> None:
        arguments.pop("params", None)  # the DAG's, which Airflow hands to every task, are not part of the answer
        super().__init__(
            subject="Approve the candidate?",
            options=[APPROVE, REJECT],
            defaults=REJECT,
            params={
                COMMENT: Param(
                    None,
                    type=["string", "null"],
                    maxLength=MAX_COMMENT_CHARACTERS,
                    title="Comment",
                    description="Why; it goes into the decision, the history and the model card.",
                    source="task",
                )
            },
            response_timeout=wait,
            trigger_rule="none_failed",
            **arguments,
        )
        self.wait = in_words(wait)

    @no_retry_for_bad_input()
    def execute(self, context: Context) -> dict[str, Any]:
        """Ask, and leave the worker until there is an answer."""
        from mnist_tasks.system.files import read_json, sha256

        skip_as_before(context["ti"].xcom_pull(task_ids="evaluate"), context["run_id"])
        params = {name: given for name, given in context["params"].items() if name != COMMENT}
        gate_config = kept_parameters(params, context["run_id"]).gate
        run = Workspace.from_environment().run(context["run_id"])
        self.log.info("reading the evaluation in %s", run)
        evaluation = sha256(run / "evaluation.json")
        asked = question(run, gate_config, self.dag_id, self.wait)
        if asked is None:
            self.log.info("nobody is asked, because the candidate does not pass the gate; promote says why")
            return asdict(Approval(evaluation))
        keep_question(run / "question.md", asked)
        if self.is_retry(context["task_instance"]) and (run / ANSWER).exists():
            earlier: dict[str, Any] = read_json(run / ANSWER, self.task_id)
            if earlier["evaluation"] == evaluation:
                self.log.info("an earlier try got the answer but could not hand it on; nobody is asked again")
                return earlier
        (run / ANSWER).unlink(missing_ok=True)
        self.subject, self.body = asked
        try:
            super().execute(context)
        except TaskAwaitingInput as parked:
            # The answer is about this evaluation, even if the file changes before it comes.
            parked.kwargs = {"evaluation": evaluation}
            tell(context, waiting(self.wait))
            raise
        raise AssertionError("HITLOperator.execute returned without waiting for an answer")

    def execute_complete(self, context: Context, event: dict[str, Any], evaluation: str = "") -> dict[str, Any]:
        """Hand on the answer, or that there was none in time, to `promote`.

        Airflow checks the choice when it is made. An odd comment does not fail the task, since a retry would ask again.
        """
        from mnist_tasks.system.files import write_json

        user = event.get("responded_by_user")
        text = str((event.get("params_input") or {}).get(COMMENT) or "")
        answer = Approval(
            evaluation=evaluation,
            approved=event["chosen_options"] == [APPROVE],
            by=person(user["name"], user["id"]) if user else None,
            at=event["responded_at"].isoformat(),
            comment=" ".join(text.split())[:MAX_COMMENT_CHARACTERS],
        )
        self.log.info("%s by %s", "approved" if answer.approved else "rejected", answer.by or "default: no answer")
        write_json(Workspace.from_environment().run(context["run_id"]) / ANSWER, asdict(answer))
        return asdict(answer)

    def is_retry(self, task: Any) -> bool:
        """Whether Airflow itself has started this try; the first one after a person has cleared the task always asks.

        Airflow fails a task whose answer comes within about a second, before the scheduler has seen that it waits.
        """
        return bool(task.try_number > task.max_tries - self.retries + 1)


def person(name: str, user_id: str) -> str:
    """A user's name, with the id if it differs."""
    return name if name == user_id else f"{name} ({user_id})"


def in_words(wait: timedelta) -> str:
    """A time to wait, in the largest unit that it is a whole number of."""
    seconds = int(wait.total_seconds())
    units = {86400: "day", 3600: "hour", 60: "minute", 1: "second"}
    size, unit = next((size, unit) for size, unit in units.items() if seconds % size == 0)
    count = seconds // size
    return f"{count} {unit}{'s' if count > 1 else ''}"


def question(run: Path, gate_config: GateConfig, dag_id: str, wait: str) -> tuple[str, str] | None:
    """The headline and the Markdown that the approver sees, or None if the candidate does not pass the gate."""
    from mnist_tasks.documents import Evaluation
    from mnist_tasks.gate import decide
    from mnist_tasks.promote import report

    evaluation = Evaluation.read(run / "evaluation.json", "clear the evaluate task to write it again")
    candidate, champion = evaluation.candidate, evaluation.champion
    decision = decide(candidate, champion, gate_config, evaluation.reference, evaluation.no_reference)
    if not decision.approved:
        return None
    accuracy = share(candidate.accuracy)
    against = f"the champion's {share(champion.accuracy)} (version {champion.version})" if champion else "no champion"
    body = [
        f"Run `{run.name}`: accuracy **{accuracy}** against {against}.",
        "",
        f"[Figures, the worst mistakes and every check]({model_page(dag_id, run.name)})",
        "",
    ]
    if decision.forced:
        # In a block of code, because a person wrote part of it.
        body += ["**Forced: it does not pass the gate's quality checks.**", "", "```"]
        body += [" ".join(decision.reason.split()), "```", ""]
    body += [f"- {line}" for line in report(decision.checks)]
    body += ["", f"Without an answer within {wait} it is rejected."]
    return f"Approve the candidate with accuracy {accuracy}, against {against}?", "\n".join(body)


def keep_question(path: Path, asked: tuple[str, str]) -> None:
    """Write down the question.

    If the task is cleared and asks again, Airflow still shows the first text: the approver would see an earlier
    evaluation than the one that the answer is about.

    Raises:
        ModelError: if another question was asked before.
    """
    from mnist_tasks.system.files import write_atomically, write_text

    text = "# {}\n\n{}\n".format(*asked)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ModelError(
            f"{path} was asked before this task was cleared, and Airflow would show it again although the candidate "
            "or the champion has changed since; trigger a new run"
        )
    write_atomically(path, lambda temporary: write_text(temporary, text))
