"""Notices silence: no run of the training has ended by MNIST_DEADLINE, or the champion is older than MNIST_STALE.

Without both settings there is no such DAG. It is a DAG of its own, because Airflow's deadline alerts belong to a run:
they cannot notice that there is none.
"""

from __future__ import annotations

from datetime import datetime, time, timedelta, timezone
from typing import Any

from airflow.sdk import dag, task

from mnist_tasks.installation import value

DEADLINE, STALE = value("MNIST_DEADLINE"), value("MNIST_STALE")
AT = DEADLINE or time(6)  # when to look at the champion's age if there is no deadline

if DEADLINE or STALE:

    @dag(
        schedule=f"{AT.minute} {AT.hour} * * *",
        catchup=False,
        max_active_runs=1,
        tags=["mnist", "training"],
        default_args={
            "retries": 4,
            "retry_delay": timedelta(seconds=30),
            "retry_exponential_backoff": 2.0,
            "execution_timeout": timedelta(minutes=5),
        },
    )
    def mnist_watchdog() -> None:
        """
        ### Tell people of a night without a result, and of a champion that has become old

        | task | tells, through `MNIST_NOTIFY` |
        |---|---|
        | **deadline** | that no run of `mnist_training` has ended by `MNIST_DEADLINE`, and what the runs do |
        | **age** | that no run has replaced or confirmed the champion for `MNIST_STALE`; how many were rejected |

        A task is green if it could look. It tells each silence once, also if it is cleared or triggered again.
        """

        @task(multiple_outputs=False)
        def deadline(**context: Any) -> str:
            from mnist_silence import tell_deadline

            return tell_deadline(context, DEADLINE, value("MNIST_SCHEDULE"))

        @task(multiple_outputs=False)
        def age(**context: Any) -> str:
            from mnist_silence import tell_age

            return tell_age(context, STALE, datetime.now(timezone.utc))

        if DEADLINE:
            deadline()
        if STALE:
            age()

    mnist_watchdog()
