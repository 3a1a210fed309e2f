"""The settings of an installation: the environment variables that begin with `MNIST_`, and their checks.

A run's parameters are in `mnist_tasks.config`. Settings are read before there is a run: by the DAG file when Airflow
parses it, and by the launcher before it starts anything. Both refuse the same values with the same words.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import time, timedelta
from pathlib import Path
from typing import Any, TypeVar

from mnist_tasks.data import allowed_sources
from mnist_tasks.run_parameters import RunConfig
from mnist_tasks.system.errors import InputError, TaskError
from mnist_tasks.system.store_url import ServerUrl, StoreUrl

PREFIX = "MNIST_"

T = TypeVar("T")

# Kubernetes adds these to the environment of a pod for each service whose name begins with mnist.
SERVICE_LINK = re.compile(r"MNIST_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")


@dataclass(frozen=True)
class Setting:
    """An environment variable.

    Args:
        description: what it sets, in a line.
        parse: turns the text into the value; raises an `InputError` if it cannot be used.
        default: the text if the variable is not set.
    """

    description: str
    parse: Callable[[str], Any]
    default: str = ""


def value(name: str, environment: Mapping[str, str] | None = None) -> Any:
    """Return the value of a setting.

    Args:
        name: a key of `SETTINGS`.
        environment: the environment to read, by default that of this process.

    Raises:
        InputError: naming the setting and what is wrong with it.
    """
    environment = os.environ if environment is None else environment
    setting = SETTINGS[name]
    try:
        return setting.parse(environment.get(name, setting.default))
    except TaskError as error:
        raise InputError(f"{name}: {error}") from error


def problems(environment: Mapping[str, str] | None = None) -> list[str]:
    """Return what is wrong with the settings, a line for each bad or unknown one."""
    environment = os.environ if environment is None else environment
    found = []
    for name in sorted(name for name in environment if name.startswith(PREFIX)):
        if name in SETTINGS:
            try:
                value(name, environment)
            except InputError as error:
                found.append(str(error))
        elif not SERVICE_LINK.fullmatch(name):
            close = difflib.get_close_matches(name, SETTINGS, n=1, cutoff=0.8)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(SETTINGS)}"
            found.append(f"{name}: unknown setting; {hint}")
    return found


def check(environment: Mapping[str, str] | None = None) -> None:
    """Raise an `InputError` that names each setting that is unknown or cannot be used."""
    if found := problems(environment):
        raise InputError("; ".join(found))


def duration(text: str) -> timedelta | None:
    """Parse a duration such as 90m or 24h; return None for an empty text.

    Raises:
        InputError: if it is not a time, zero or longer than a year.
    """
    if not text.strip():
        return None
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    match = re.fullmatch(r"([0-9]{1,8})([smhd])", text.strip())
    wait = timedelta(**{units[match[2]]: int(match[1])}) if match else timedelta()
    if not timedelta() < wait <= timedelta(days=365):
        raise InputError(
            f"{text!r} is not a time to wait from 1s to 365d; write a number and s, m, h or d, such as 24h, or "
            "leave it empty"
        )
    return wait


def keep_time(text: str) -> timedelta | None:
    """Parse how long something is kept; return None for ever.

    Raises:
        InputError: if it is neither `forever` nor a number of days from 1 to 36500.
    """
    days = re.fullmatch(r"([0-9]{1,5})d", text.strip())
    if text.strip() == "forever":
        return None
    if not days or not 1 <= int(days[1]) <= 36500:
        raise InputError(
            f"{text!r} is not a time to keep something; write days from 1d to 36500d, such as 90d, or forever"
        )
    return timedelta(days=int(days[1]))


def keep_number(text: str) -> int | None:
    """Parse how many of something are kept; return None for all.

    Raises:
        InputError: if it is neither `forever` nor a number from 1 to 1000000.
    """
    if text.strip() == "forever":
        return None
    if not re.fullmatch(r"[0-9]{1,7}", text.strip()) or not 1 <= int(text) <= 1_000_000:
        raise InputError(f"{text!r} is not a number to keep; write one from 1 to 1000000, such as 100, or forever")
    return int(text)


def _parallel(text: str) -> int | None:
    if not text.strip():
        return None
    if not re.fullmatch(r"[0-9]{1,4}", text.strip()) or not 1 <= int(text) <= 1000:
        raise InputError(f"{text!r} is not a number of trials from 1 to 1000; write one, such as 2, or leave it empty")
    return int(text)


def _folder(text: str) -> str:
    if "\0" in text or "\n" in text:
        raise InputError(f"{text!r} is not a path of a folder: it has a line break; rename the folder")
    return text


def _schedule(text: str) -> str | None:
    """Parse a cron expression that is due at some time; return None for an empty text."""
    from croniter import croniter  # what Airflow reads its schedules with

    if not text:
        return None
    try:
        croniter(as_cron(text)).get_next()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{text!r} is not a time in cron's form: {error}; write five fields, such as '0 2 * * *' for 02:00 UTC "
            "every night, or leave it empty for runs by hand only"
        ) from error
    return text


def as_cron(schedule: str) -> str:
    """A schedule as croniter reads it, which lacks one of Airflow's own names."""
    return "0 0 1 */3 *" if schedule == "@quarterly" else schedule


def _time_of_day(text: str) -> time | None:
    if not text.strip():
        return None
    match = re.fullmatch("([01][0-9]|2[0-3]):([0-5][0-9])", text.strip())
    if not match:
        raise InputError(
            f"{text!r} is not a time of day from 00:00 to 23:59; write hours and minutes in UTC with two digits each, "
            "such as 06:00, or leave it empty"
        )
    return time(int(match[1]), int(match[2]))


def _stale(text: str) -> timedelta | None:
    """Parse how old a champion may be; return None for an empty text and for `forever`."""
    return None if text.strip() == "forever" else duration(text)


def _name(text: str) -> str | None:
    if text and (text != text.strip() or not text.isprintable()):
        raise InputError(f"{text!r} has blanks around it or a line break; write the name alone, or leave it empty")
    return text or None


def _store(text: str) -> str | None:
    return str(StoreUrl.parse(text)) if text.strip() else None


def _yes_or_no(text: str) -> bool:
    if text.strip() not in ("yes", "no"):
        raise InputError(f"{text!r} is neither yes nor no")
    return text.strip() == "yes"


def _server(text: str) -> ServerUrl | None:
    return ServerUrl.parse(text) if text.strip() else None


def _notifiers(text: str) -> list[dict[str, Any]]:
    """Parse a list of notifiers. The messages do not repeat the text, which may hold a password."""
    if not text.strip():
        return []
    way_out = """write a list such as '[{"notifier": "mnist_notify.WebhookNotifier", "conn_id": "chat"}]'"""
    entries = _json(text, list, "list of objects, each with a notifier", way_out)
    for number, entry in enumerate(entries, start=1):
        if not (isinstance(entry, dict) and isinstance(entry.get("notifier"), str)):
            raise InputError(f"entry {number} is not an object with the path of a class under `notifier`; {way_out}")
    return entries


def _parameters(text: str) -> dict[str, Any]:
    """Parse and check parameters of a run, given as a JSON object or as the path of a file with one."""
    if not text.strip():
        return {}
    way_out = """write an object, such as '{"recipe": "cnn", "min_accuracy": 0.99}', or the path of a file with one"""
    if not text.lstrip().startswith(("{", "[", '"')):
        path = Path(text.strip()).expanduser()
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
            raise InputError(f"{path} cannot be read: {reason}; {way_out}") from error
        way_out += f" ({path})"
    parameters = _json(text, dict, "object", way_out)
    RunConfig.from_parameters(parameters)
    return parameters


def _json(text: str, kind: type[T], kind_words: str, way_out: str) -> T:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InputError(f"it is not JSON: {error}; {way_out}") from None  # the error holds the whole text
    if not isinstance(value, kind):
        raise InputError(f"it is not a JSON {kind_words}; {way_out}")
    return value


SETTINGS: Mapping[str, Setting] = {
    "MNIST_HOME": Setting("the folder of datasets, runs and models", _folder),
    "MNIST_SCHEDULE": Setting("when the training runs by itself: cron, UTC; empty for never", _schedule, "0 2 * * *"),
    "MNIST_PARAMS": Setting("defaults of a run's parameters: a JSON object, or the path of a file", _parameters),
    "MNIST_SOURCES": Setting("what a data source or an inbox may be, beside MNIST_HOME", allowed_sources.parse),
    "MNIST_WATCH_INBOX": Setting("how often to look into the inbox, such as 30s; empty for never", duration),
    "MNIST_GPU_QUEUE": Setting("the queue of train and evaluate; empty for the default one", _name),
    "MNIST_GPU_POOL": Setting("the pool of train and evaluate, which must exist; empty for the default one", _name),
    "MNIST_KUBERNETES_GPU_IMAGE": Setting("the image of train and evaluate under the KubernetesExecutor", str.strip),
    "MNIST_SWEEP_PARALLEL": Setting("how many trials of a sweep run at a time; empty for as many as can", _parallel),
    "MNIST_APPROVAL": Setting("how long a candidate waits for a person's approval, such as 24h", duration),
    "MNIST_NOTIFY": Setting("whom to tell what became of a run: a JSON list", _notifiers),
    "MNIST_KEEP_RUNS": Setting("how long a run's working files are kept, such as 90d, or forever", keep_time, "90d"),
    "MNIST_KEEP_VERSIONS": Setting("how many versions are kept, such as 100, or forever", keep_number, "100"),
    "MNIST_KEEP_LOGS": Setting("how long Airflow's logs and finished runs are kept, or forever", keep_time, "90d"),
    "MNIST_DEADLINE": Setting("tell if no run of the night has ended by then, such as 06:00 (UTC)", _time_of_day),
    "MNIST_STALE": Setting("tell if the champion is older, such as 14d; empty or `forever` for never", _stale),
    "MNIST_MIRROR": Setting("where to copy the champion to: a folder in an object store; empty for nowhere", _store),
    "MNIST_MIRROR_PRUNE": Setting("whether what is pruned here is pruned there: yes or no", _yes_or_no, "no"),
    "MNIST_MLFLOW": Setting("the MLflow server that runs and champions are recorded in; empty for none", _server),
    "MNIST_COMMIT": Setting("the git commit that a container's image was built from", str.strip),
}
