"""The pages' routes. Whoever may see the runs of mnist_training may see the models; nobody else may see anything."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import requires_access_dag
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from fastapi import Depends, FastAPI, Request
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, Response
from jinja2 import ChainableUndefined, Environment, FileSystemLoader
from sqlalchemy import select
from starlette.exceptions import HTTPException

from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.outcome import published_as
from mnist_tasks.registry.version import METADATA, Version
from mnist_tasks.system.errors import InputError, ModelError
from mnist_tasks.workspace import Workspace
from mnist_ui.charts import Point, line_chart
from mnist_ui.failures import failures, waits_for_answer
from mnist_ui.overview import (
    Overview,
    VersionRow,
    damage,
    figure,
    moves_by,
    overview,
    plain_file,
    report,
    was_champion,
)

TRAINING, ROLLBACK = "mnist_training", "mnist_rollback"
DAG_ID = re.compile(r"[A-Za-z0-9_.-]{1,250}")
ORDER = ("load", "normalize", "train", "evaluate", "approve", "promote")
HERE = Path(__file__).parent
STATIC = {"style.css": "text/css", "page.js": "text/javascript"}

# A page loads nothing from elsewhere, has no inline script or style, and only Airflow's own pages may frame it.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}

app = FastAPI(
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
    dependencies=[Depends(requires_access_dag("GET", DagAccessEntity.RUN, param_dag_id=TRAINING))],
)

# A value that a damaged version or one of an older release does not have is left blank.
templates = Environment(
    loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=ChainableUndefined, trim_blocks=True
)
templates.filters["number"] = lambda value, digits=4: f"{value:.{digits}f}" if isinstance(value, int | float) else "-"
templates.filters["time"] = lambda text: str(text)[:19].replace("T", " ") + " UTC" if text else "-"

# By where the application is mounted: what the page about the models showed last, and the rendered page.
LAST_RENDERED: dict[str, tuple[Overview, bytes]] = {}

# As the folders of versions are named: without a sign, a space or a leading zero, which `int` would accept.
Number = Annotated[str, PathParameter(pattern="^[1-9][0-9]{0,8}$")]


@app.middleware("http")
async def secure(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Send the security headers with every answer."""
    response = await call_next(request)
    response.headers.update(HEADERS)
    return response


@app.exception_handler(HTTPException)
async def explain(request: Request, error: Exception) -> HTMLResponse:
    """Answer with a page instead of JSON, because it is shown inside Airflow's UI."""
    assert isinstance(error, HTTPException)  # noqa: S101 - what the handler is registered for
    return page(request, "message.html", error.status_code, title="Models", text=str(error.detail))


@app.exception_handler(RequestValidationError)
async def explain_bad_path(request: Request, _: Exception) -> HTMLResponse:
    """Answer that a page does not exist if its address has something else in place of a number."""
    return page(request, "message.html", 404, title="Models", text="There is no such page.")


@app.exception_handler(InputError)
@app.exception_handler(OSError)
async def explain_folder(request: Request, error: Exception) -> HTMLResponse:
    """Explain that the folder of the models cannot be read or is not set: a fault of the installation."""
    text = f"The models cannot be read by the API server: {error}"
    return page(request, "message.html", 503, title="Models", text=text)


@app.exception_handler(Exception)
async def explain_nothing(request: Request, _: Exception) -> HTMLResponse:
    """Answer after a defect, without details: the server's log has the traceback. `secure` does not see this answer."""
    answer = page(request, "message.html", 500, title="Models", text="This page failed: the API server's log says why.")
    answer.headers.update(HEADERS)
    return answer


def page(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Render a template. Its `root` is where this application is mounted, its `airflow` where Airflow is."""
    root = _root(request)
    text = templates.get_template(template).render(root=root, airflow=root.removesuffix("/mnist"), **values)
    return HTMLResponse(text, status)


def _root(request: Request) -> str:
    return str(request.scope.get("root_path", "")).rstrip("/")


@app.get("/models")
def models_page(request: Request) -> HTMLResponse:
    """The champion, all versions, and who was champion when."""
    workspace = Workspace.from_environment()
    found = overview(ModelDirectory(workspace.models), workspace.runs, datetime.now(timezone.utc))
    # The page depends on nothing else, so it is rendered again only if this has changed.
    last = LAST_RENDERED.get(_root(request))
    if last and last[0] == found:
        return HTMLResponse(last[1])
    measured = [version for version in reversed(found.versions) if version.summary.accuracy is not None]
    chart = line_chart(
        [_point(version) for version in measured], [version.summary.min_accuracy for version in measured]
    )
    answer = page(request, "models.html", title="Models", found=found, chart=chart)
    LAST_RENDERED[_root(request)] = found, bytes(answer.body)
    return answer


def _point(version: VersionRow) -> Point:
    accuracy = version.summary.accuracy or 0
    low, high = version.summary.accuracy_95 or (accuracy, accuracy)
    return Point(version.number, accuracy, low, high, version.status == "champion")


@app.get("/models/{number}")
def version_page(request: Request, number: Number) -> HTMLResponse:
    """One version: its quality, and how it was made."""
    version, workspace = _version(number), Workspace.from_environment()
    models = ModelDirectory(workspace.models)
    shown = report(version.folder, workspace.datasets, METADATA)
    return page(
        request,
        "candidate.html",
        title=f"Version {number}",
        shown=shown,
        version=version.number,
        problems=[*damage(models, version), *shown.problems],
        images=f"models/{number}",
        run=None,
        published=version.number if was_champion(version.number, models) else None,
        champion_now=_champion_now(models),
    )


@app.get("/models/{number}/model.keras")
def download(number: Number) -> FileResponse:
    """Download a version's model."""
    path = _version(number).model
    if not plain_file(path, path.parent.parent):
        raise HTTPException(404, f"{path.name} of version {number} is missing: python -m mnist_tasks models repair")
    return FileResponse(path, filename=f"mnist-{number}.keras", media_type="application/octet-stream")


@app.get("/models/{number}/figures/{name}")
def version_figure(number: Number, name: str) -> FileResponse:
    """A figure of a version."""
    return _figure(_version(number).folder, name)


def plain_names(dag_id: str, run_id: str) -> None:
    """Refuse what cannot be the name of a run, before it reaches the database or the file system."""
    if not DAG_ID.fullmatch(dag_id):
        raise HTTPException(404, "There is no such run.")
    _run_folder(Workspace.from_environment(), run_id)


RunAccess = [Depends(plain_names), Depends(requires_access_dag("GET", DagAccessEntity.RUN))]


@app.get("/runs/{dag_id}/{run_id}", dependencies=RunAccess)
def run_page(request: Request, dag_id: str, run_id: str, session: SessionDep) -> HTMLResponse:
    """The result of a training run, or the version that a rollback has published."""
    run = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
    if run is None:
        raise HTTPException(404, "There is no such run.")
    workspace = Workspace.from_environment()
    models, folder = ModelDirectory(workspace.models), _run_folder(workspace, run_id)
    query = select(TaskInstance).where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id)
    tasks = sorted(session.scalars(query), key=lambda task: (*ORDER, task.task_id).index(task.task_id))
    if dag_id == ROLLBACK:
        return page(
            request,
            "rollback.html",
            title="Rollback",
            run=run,
            why=failures(session, tasks, None),
            moves=moves_by(run_id, models),
            champion_now=_champion_now(models),
        )
    if dag_id != TRAINING:
        raise HTTPException(404, f"This run is not one of {TRAINING}: it has no model.")
    shown = report(folder, workspace.datasets)
    return page(
        request,
        "candidate.html",
        title="Model",
        shown=shown,
        version=None,
        problems=shown.problems,
        images=f"runs/{dag_id}/{run_id}",
        run=run,
        why=failures(session, tasks, shown.decision),
        answer_at=waits_for_answer(tasks),
        at_work=[task.task_id for task in tasks if task.state == "running"],
        published=published_as(folder, models),
        champion_now=_champion_now(models),
    )


@app.get("/runs/{dag_id}/{run_id}/figures/{name}", dependencies=RunAccess)
def run_figure(dag_id: str, run_id: str, name: str) -> FileResponse:
    """A figure of a run."""
    if dag_id != TRAINING:
        raise HTTPException(404, "There is no such figure.")
    return _figure(_run_folder(Workspace.from_environment(), run_id), name)


@app.get("/static/{name}")
def static(name: str) -> FileResponse:
    """The pages' style and script."""
    if name not in STATIC:
        raise HTTPException(404, "There is no such page.")
    return FileResponse(HERE / "static" / name, media_type=STATIC[name])


def _champion_now(models: ModelDirectory) -> str:
    """Who is champion now, as a sentence."""
    champion_now = models.describe_champion()
    return f"{champion_now[0].upper()}{champion_now[1:]}."


def _version(number: str) -> Version:
    try:
        return ModelDirectory(Workspace.from_environment().models).version(number)
    except ModelError as error:
        raise HTTPException(404, str(error)) from None


def _run_folder(workspace: Workspace, run_id: str) -> Path:
    try:
        return workspace.run_folder(run_id)
    except InputError as error:
        raise HTTPException(404, str(error)) from None


def _figure(folder: Path, name: str) -> FileResponse:
    path = figure(folder, name)
    if path is None:
        raise HTTPException(404, "There is no such figure.")
    return FileResponse(path, media_type="image/png")
