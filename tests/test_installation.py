"""The settings: each bad value is refused before the start. `tests/dags/test_settings.py` tests the DAG file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import time, timedelta
from pathlib import Path

import pytest

from mnist_tasks.installation import SETTINGS, check, duration, problems, value
from mnist_tasks.system.errors import InputError
from mnist_tasks.system.store_url import ServerUrl
from mnist_tasks.workspace import PROJECT

BAD = [
    ("MNIST_SCHEDULE", "every night", "'every night' is not a time in cron's form: "),
    ("MNIST_SCHEDULE", " ", "' ' is not a time in cron's form: "),
    ("MNIST_SCHEDULE", "0 0 30 2 *", "'0 0 30 2 *' is not a time in cron's form: failed to find next date"),
    ("MNIST_WATCH_INBOX", "30", "'30' is not a time to wait from 1s to 365d; write a number and s, m, h or d"),
    ("MNIST_SWEEP_PARALLEL", "0", "'0' is not a number of trials from 1 to 1000"),
    ("MNIST_SWEEP_PARALLEL", "two", "'two' is not a number of trials from 1 to 1000"),
    ("MNIST_MIRROR", "/data/models", "'/data/models' is not the URL of a store: use s3, gs, file, memory"),
    ("MNIST_MIRROR", "s3://key:secret@bucket/models", "s3://... holds credentials or a port; put them into an Airflow"),
    ("MNIST_MLFLOW", "host:5000", "'host:5000' is not the URL of a server; write it as http://host:5000"),
    ("MNIST_MLFLOW", "http://me:secret@host", "http://... holds a password; put it into an Airflow connection"),
    ("MNIST_MLFLOW", "http://my%20conn@host", "'my%20conn' is not the id of an Airflow connection"),
    ("MNIST_MLFLOW", "http://host:5000/#/experiments", "http://host... has a query or a fragment"),
    ("MNIST_MLFLOW", "http://my host", "'http://my host' is not the URL of a server"),
    ("MNIST_MLFLOW", "http://host:port", "it is not the URL of a server: Port could not be cast to integer"),
    ("MNIST_APPROVAL", "soon", "'soon' is not a time to wait from 1s to 365d"),
    ("MNIST_GPU_POOL", "gpu ", "'gpu ' has blanks around it"),
    ("MNIST_GPU_QUEUE", "\n", "'\\n' has blanks around it"),
    ("MNIST_PARAMS", '{"epochs": 0}', "epochs: 0 is less than the minimum of 1"),
    ("MNIST_PARAMS", '{"recip": "cnn"}', "recip: unknown parameter; did you mean recipe?"),
    ("MNIST_PARAMS", "[1]", "it is not a JSON object; write an object, such as"),
    ("MNIST_PARAMS", "{", "it is not JSON: "),
    ("MNIST_PARAMS", "/no/such/file", "/no/such/file cannot be read: No such file or directory"),
]
# A mistake in one of these settings does not stop a training.
BAD_BUT_NO_REASON_TO_STOP = [
    ("MNIST_NOTIFY", "{}", "it is not a JSON list of objects, each with a notifier"),
    ("MNIST_NOTIFY", "https://chat/secret", "it is not JSON: "),
    ("MNIST_NOTIFY", '[{"url": "https://chat/secret"}]', "entry 1 is not an object with the path of a class"),
    *(
        ("MNIST_DEADLINE", text, f"{text!r} is not a time of day from 00:00 to 23:59; write hours and minutes in UTC")
        for text in (
            "6",
            "6:00",
            "25:00",
            "24:00",
            "06:60",
            "06:00Z",
            "06:00 UTC",
            "6am",
            "06:00:00",
            "\u0660\u0666:\u0660\u0660",
        )
    ),
    ("MNIST_MIRROR_PRUNE", "sometimes", "'sometimes' is neither yes nor no"),
    ("MNIST_STALE", "14", "'14' is not a time to wait from 1s to 365d; write a number and s, m, h or d"),
    ("MNIST_STALE", "never", "'never' is not a time to wait from 1s to 365d"),
    ("MNIST_STALE", "0d", "'0d' is not a time to wait from 1s to 365d"),
    ("MNIST_APROVAL", "24h", "unknown setting; did you mean MNIST_APPROVAL?"),
    ("MNIST_COLOUR", "red", f"unknown setting; known: {', '.join(SETTINGS)}"),
]


@pytest.mark.parametrize(("name", "text", "words"), [*BAD, *BAD_BUT_NO_REASON_TO_STOP])
def test_a_bad_setting_is_named_with_what_is_wrong(name: str, text: str, words: str) -> None:
    (problem,) = problems({name: text})

    assert problem.startswith(f"{name}: {words}")
    assert "secret" not in problem
    with pytest.raises(InputError) as refusal:
        check({name: text})
    assert str(refusal.value) == problem


def test_all_bad_settings_are_named_at_once() -> None:
    with pytest.raises(InputError, match=r"^MNIST_APPROVAL: 'x' .*; MNIST_WATCH_INBOX: 'y' "):
        check({"MNIST_APPROVAL": "x", "MNIST_WATCH_INBOX": "y", "HOME": "/"})


@pytest.mark.parametrize("script", ["run.py", "up.py", "stack_run.py"])
def test_the_launchers_refuse_a_bad_setting_before_anything_starts(script: str, tmp_path: Path) -> None:
    command = [sys.executable, str(PROJECT / "scripts" / script)]
    settings = {"MNIST_HOME": str(tmp_path / "home"), "MNIST_SCHEDULE": "every night"}

    result = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("failed: MNIST_SCHEDULE: 'every night' is not a time in cron's form: ")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("MNIST_SCHEDULE", "", None),
        ("MNIST_SCHEDULE", "@daily", "@daily"),
        ("MNIST_SCHEDULE", "@quarterly", "@quarterly"),
        ("MNIST_SCHEDULE", "*/5 2 * * 1-5", "*/5 2 * * 1-5"),
        ("MNIST_WATCH_INBOX", "30s", timedelta(seconds=30)),
        ("MNIST_APPROVAL", " ", None),
        ("MNIST_MIRROR", "", None),
        ("MNIST_MIRROR", "s3://conn@bucket/models/", "s3://conn@bucket/models"),
        ("MNIST_MIRROR_PRUNE", "yes", True),
        ("MNIST_MLFLOW", " ", None),
        ("MNIST_MLFLOW", "https://conn@mlflow.example.com/team/", ServerUrl("https://mlflow.example.com/team", "conn")),
        ("MNIST_MLFLOW", "http://[::1]:5000", ServerUrl("http://[::1]:5000", None)),
        ("MNIST_SWEEP_PARALLEL", " ", None),
        ("MNIST_SWEEP_PARALLEL", "2", 2),
        ("MNIST_GPU_POOL", "", None),
        ("MNIST_DEADLINE", "", None),
        ("MNIST_DEADLINE", " 06:00 ", time(6)),
        ("MNIST_DEADLINE", "23:59", time(23, 59)),
        ("MNIST_STALE", "", None),
        ("MNIST_STALE", "forever", None),
        ("MNIST_STALE", "14d", timedelta(days=14)),
        ("MNIST_NOTIFY", "", []),
        ("MNIST_PARAMS", "", {}),
        ("MNIST_PARAMS", ' {"recipe": "cnn", "min_accuracy": 0.99}', {"recipe": "cnn", "min_accuracy": 0.99}),
    ],
)
def test_a_good_setting_has_its_value(name: str, text: str, expected: object) -> None:
    assert value(name, {name: text}) == expected
    assert problems({name: text}) == []


def test_parameters_come_from_a_file_too(tmp_path: Path) -> None:
    (tmp_path / "nightly.json").write_text(json.dumps({"epochs": 3}))
    (tmp_path / "bad.json").write_text(json.dumps({"epochs": "three"}))

    assert value("MNIST_PARAMS", {"MNIST_PARAMS": str(tmp_path / "nightly.json")}) == {"epochs": 3}
    assert problems({"MNIST_PARAMS": str(tmp_path / "bad.json")}) == [
        "MNIST_PARAMS: epochs: 'three' is not of type 'integer', 'null'"
    ]


def test_what_kubernetes_says_of_a_service_named_mnist_is_no_setting() -> None:
    names = ["MNIST_PORT", "MNIST_SERVICE_HOST", "MNIST_TF_SERVING_PORT_8500_TCP_ADDR", "MNIST_A_SERVICE_PORT_HTTP"]

    assert problems(dict.fromkeys(names, "tcp://10.0.0.1:8500")) == []


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("", None),
        ("  ", None),
        ("5s", timedelta(seconds=5)),
        ("90m", timedelta(minutes=90)),
        ("24h", timedelta(days=1)),
        (" 365d ", timedelta(days=365)),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, time: timedelta | None) -> None:
    assert duration(text) == time
