"""The command that asks a model server whether it serves the champion, and whether it computes what was approved."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mnist_tasks.cli.output import NO, YES, AsJson, answer
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.version import GOLDEN, Version
from mnist_tasks.system.errors import InputError, ModelError
from mnist_tasks.workspace import Workspace

SECONDS = 60.0


def serve_check(
    url: Annotated[str, typer.Option(help="The address of the server's REST API.")] = "http://127.0.0.1:8501",
    name: Annotated[str, typer.Option(help="The name that it serves the model under.")] = "mnist",
    as_json: AsJson = False,
) -> int:
    """Send test images to TensorFlow Serving and compare its answers with those of the approved champion.

    Exit status 1: it serves another version, or gives other answers.
    """
    directory = ModelDirectory(Workspace.from_environment().models)
    champion = directory.champion()
    if champion is None:
        raise InputError(f"{directory.root} has no champion; train one with mnist_training")
    directory.verify(champion)
    address = f"{url.rstrip('/')}/v1/models/{name}"
    served = _newest(_ask(address))
    if served != champion.number:
        other = f"version {served}" if served else "no version"
        found = [
            f"{url} serves {other}, but version {champion.number} is champion; it looks for new ones every second, so "
            "ask again"
        ]
    else:
        found = _differences(f"{address}/versions/{served}:predict", champion)
    text = f"{url} serves version {champion.number}, the champion, and gives the probabilities that were approved"
    answer(found, found or [text], as_json)
    return NO if found else YES


def _newest(status: dict[str, Any]) -> int | None:
    """The version that a request without one gets: the largest that is available. See TF Serving's ModelService."""
    found = status.get("model_version_status", [])
    return max((int(entry["version"]) for entry in found if entry.get("state") == "AVAILABLE"), default=None)


def _differences(address: str, champion: Version) -> list[str]:
    """What is wrong with the server's answers for the golden images, which the version keeps with its probabilities."""
    import numpy as np

    from mnist_tasks.evaluation.integrity import same

    with np.load(champion.folder / GOLDEN) as golden:
        images, then = golden["images"], golden["probabilities"]
    predictions = _ask(address, {"instances": images.tolist()}).get("predictions")
    try:
        now = np.asarray(predictions, np.float32)
    except (TypeError, ValueError):
        now = np.zeros(0, np.float32)
    finding = same("golden", "the server now and the model when it was approved", then, now)
    return [] if finding.passed else [finding.message]


def _ask(address: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The JSON object that a server answers with.

    Raises:
        ConnectionError: if it cannot be reached.
        InputError: if it is no model server, or does not know the model.
    """
    # Not for the other commands: it takes a tenth of a second.
    import httpx

    try:
        found = httpx.request("POST" if body else "GET", address, json=body, timeout=SECONDS)
    except httpx.InvalidURL as error:
        raise InputError(f"--url: {address} is not a URL: {error}") from error
    except httpx.HTTPError as error:
        raise ConnectionError(f"{address} cannot be reached: {type(error).__name__}; is the server up?") from error
    try:
        content = found.json()
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{address} answers with status {found.status_code}, not as TensorFlow Serving does")
    if not found.is_success:
        reason = str(content.get("error", ""))[:200]
        raise ModelError(f"{address} answers with status {found.status_code}: {reason}; look at the server's log")
    return content
