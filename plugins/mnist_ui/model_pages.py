"""The pages about the versions: the list, one version, two side by side, and what people write about them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from typing import Annotated
from urllib.parse import parse_qs, quote

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from fastapi import APIRouter, Depends, Query, Request
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from mnist_tasks.documents import Notes
from mnist_tasks.registry.model_directory import NUMBER, ModelDirectory
from mnist_tasks.registry.notes import add_note, read_notes, set_tags
from mnist_tasks.registry.version import METADATA, REPAIR, Version
from mnist_tasks.system.errors import InputError, ModelError
from mnist_tasks.workspace import Workspace
from mnist_ui.charts import accuracy_of_versions, loss_of_versions
from mnist_ui.compare import Side, compare
from mnist_ui.nights import Night, nights
from mnist_ui.overview import Overview, overview, was_champion
from mnist_ui.reading import plain_file
from mnist_ui.rendering import (
    TRAINING,
    champion_now,
    compare_with_champion,
    figure_file,
    page,
    root_of,
    run_folder,
    training_plots,
)
from mnist_ui.report import damage, find_damage, report
from mnist_ui.verified import Verifier

MAX_FORM_BYTES = 20_000
MAX_NUMBER = 10**9  # above every version's

router = APIRouter()

# By where the application is mounted: what the page about the models showed last, and the rendered page.
LAST_RENDERED: dict[str, tuple[tuple[Overview, list[Night], dict[int, str]], bytes]] = {}
VERIFIER = Verifier()

# As the folders of versions are named: without a sign, a space or a leading zero, which `int` would accept.
Number = Annotated[str, PathParameter(pattern="^[1-9][0-9]{0,8}$")]


def same_origin(request: Request) -> None:
    """Refuse what another site has sent in the name of a person who is logged in."""
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise HTTPException(403, "This was sent by another site.")


MayTrigger = [
    Depends(same_origin),
    Depends(requires_access_dag("POST", DagAccessEntity.RUN, param_dag_id=TRAINING)),
]


@router.get("/models")
def models_page(request: Request, session: SessionDep) -> HTMLResponse:
    """The champion, the last runs, all versions, and who was champion when."""
    workspace = Workspace.from_environment()
    models = ModelDirectory(workspace.models)
    found = overview(models, workspace.runs, datetime.now(timezone.utc))
    moves = [reign.event for reign in reversed(found.reigns)]
    last_nights, damaged = nights(session, TRAINING, workspace, moves), VERIFIER.problems(models)
    # The page depends on nothing else, so it is rendered again only if this has changed.
    shown = (found, last_nights, damaged)
    last = LAST_RENDERED.get(root_of(request))
    if last and last[0] == shown:
        return HTMLResponse(last[1])
    statuses = {version.status or "version" for version in found.versions} | ({"damaged"} if damaged else set())
    answer = page(
        request,
        "models.html",
        title="Models",
        found=found,
        nights=last_nights,
        damaged=damaged,
        statuses=sorted(statuses),
        recipes=sorted({row.summary.recipe for row in found.versions if row.summary.recipe}),
        accuracy=accuracy_of_versions(found.versions),
        loss=loss_of_versions(found.versions),
    )
    LAST_RENDERED[root_of(request)] = shown, bytes(answer.body)
    return answer


@router.get("/models/{number}")
def version_page(request: Request, number: Number) -> HTMLResponse:
    """One version: its quality, and how it was made."""
    version, workspace = _version(number), Workspace.from_environment()
    models = ModelDirectory(workspace.models)
    shown = report(version.folder, workspace.datasets, METADATA)
    problems = [*damage(models, version), *shown.problems]
    try:
        notes = read_notes(models, version.number)
    except ModelError as error:
        notes = Notes()
        problems.append(str(error))
    return page(
        request,
        "candidate.html",
        title=f"Version {number}",
        shown=shown,
        version=version.number,
        problems=problems,
        notes=notes,
        plots=training_plots(shown),
        compare_with=compare_with_champion(str(version.number), shown),
        images=f"models/{number}",
        run=None,
        published=version.number if was_champion(version.number, models) else None,
        champion_now=champion_now(models),
    )


@router.get("/models/{number}/model.keras")
def download(number: Number) -> FileResponse:
    """Download a version's model, unless the files that machines read are damaged."""
    version = _version(number)
    path = version.model
    if not plain_file(path, path.parent.parent):
        raise HTTPException(404, f"{path.name} of version {number} is missing: {REPAIR}")
    models = ModelDirectory(Workspace.from_environment().models)
    if changed := find_damage(models, version, documents=False):
        raise HTTPException(409, f"{changed[0]}. It is not sent.")
    return FileResponse(path, filename=f"mnist-{number}.keras", media_type="application/octet-stream")


@router.get("/models/{number}/figures/{name}")
def version_figure(number: Number, name: str) -> FileResponse:
    """A figure of a version."""
    return figure_file(_version(number).folder, name)


@router.post("/models/{number}/tags", dependencies=MayTrigger)
async def tag(request: Request, number: Number, user: GetUserDep) -> RedirectResponse:
    """Give a version the tags of the form, and no others."""
    names = (await _field(request, "tags")).split()
    return await _written(request, number, partial(set_tags, names=names, by=user.get_name()))


@router.post("/models/{number}/notes", dependencies=MayTrigger)
async def note(request: Request, number: Number, user: GetUserDep) -> RedirectResponse:
    """Add the form's note to a version."""
    text = await _field(request, "note")
    return await _written(request, number, partial(add_note, text=text, by=user.get_name()))


async def _field(request: Request, name: str) -> str:
    """A field of a form that was sent; empty if it is missing."""
    length = request.headers.get("content-length", "")
    if not length.isdecimal() or int(length) > MAX_FORM_BYTES:
        raise HTTPException(413, f"The form is larger than {MAX_FORM_BYTES:,} bytes.")
    fields = parse_qs((await request.body()).decode(errors="replace"))
    return fields.get(name, [""])[0].replace("\r\n", "\n")


async def _written(request: Request, number: str, write: Callable[..., None]) -> RedirectResponse:
    """Write, then show the version's page."""

    def work() -> None:
        version = _version(number)
        try:
            write(ModelDirectory(Workspace.from_environment().models), version)
        except InputError as error:
            raise HTTPException(400, f"Not saved: {error}.") from None
        except ModelError as error:
            raise HTTPException(409, f"Not saved: {error}.") from None

    await run_in_threadpool(work)
    return RedirectResponse(f"{root_of(request)}/models/{number}", 303)


@router.get("/compare")
def compare_page(request: Request, of: Annotated[list[str], Query(max_length=50)] = []) -> HTMLResponse:  # noqa: B006
    """Two versions or runs side by side; `of` has their names, the later one last."""
    if len(of) != 2:
        raise HTTPException(400, f"{len(of)} models are chosen; choose two.")
    names = sorted(of, key=lambda name: int(name) if NUMBER.fullmatch(name) else MAX_NUMBER)
    left, right = (_side(name) for name in names)
    shown = compare(left, right)
    problems = [f"{side.name}: {problem}" for side in (left, right) for problem in side.shown.problems]
    return page(request, "compare.html", title=f"{left.name} and {right.name}", shown=shown, problems=problems)


def _side(name: str) -> Side:
    """A version by its number, or a run of the training by `run:` and its id."""
    workspace = Workspace.from_environment()
    if name.startswith("run:"):
        run_id = name.removeprefix("run:")
        folder = run_folder(workspace, run_id)
        if not folder.is_dir():
            raise HTTPException(404, f"There is no folder of a run {run_id}.")
        return Side(f"Run {run_id}", f"runs/{TRAINING}/{quote(run_id)}", report(folder, workspace.datasets))
    if not NUMBER.fullmatch(name):
        raise HTTPException(404, "There is no such version.")
    version = _version(name)
    shown = report(version.folder, workspace.datasets, METADATA)
    return Side(f"Version {name}", f"models/{name}", shown, version.number)


def _version(number: str) -> Version:
    try:
        return ModelDirectory(Workspace.from_environment().models).version(number)
    except ModelError as error:
        raise HTTPException(404, str(error)) from None
