"""The application with the pages' routes.

Whoever may see the runs of mnist_training may see the models; nobody else may see anything.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import requires_access_dag
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, Response
from sqlalchemy import select
from starlette.exceptions import HTTPException

from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.outcome import published_as
from mnist_tasks.system.errors import InputError
from mnist_tasks.workspace import Workspace
from mnist_ui.charts import within_epochs
from mnist_ui.failures import failures, waits_for_answer
from mnist_ui.model_pages import router
from mnist_ui.overview import moves_by
from mnist_ui.rendering import (
    HERE,
    ROLLBACK,
    SWEEP,
    TRAINING,
    champion_now,
    compare_with_champion,
    figure_file,
    page,
    run_folder,
    training_plots,
)
from mnist_ui.report import report
from mnist_ui.sweeps import sweep_report

DAG_ID = re.compile(r"[A-Za-z0-9_.-]{1,250}")
ORDER = ("load", "normalize", "train", "evaluate", "approve", "promote", "mirror", "mlflow")
STATIC = {
    "style.css": "text/css",
    "page.js": "text/javascript",
    "lists.js": "text/javascript",
    "plots.js": "text/javascript",
    "uPlot.iife.min.js": "text/javascript",
    "uPlot.min.css": "text/css",
}

# A page loads nothing from elsewhere, has no inline script or style, sends forms and requests only to this server, and
# only Airflow's own pages may frame it.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'",
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
app.include_router(router)


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


def plain_names(dag_id: str, run_id: str) -> None:
    """Refuse what cannot be the name of a run, before it reaches the database or the file system."""
    if not DAG_ID.fullmatch(dag_id):
        raise HTTPException(404, "There is no such run.")
    run_folder(Workspace.from_environment(), run_id)


RunAccess = [Depends(plain_names), Depends(requires_access_dag("GET", DagAccessEntity.RUN))]


@app.get("/runs/{dag_id}/{run_id}", dependencies=RunAccess)
def run_page(request: Request, dag_id: str, run_id: str, session: SessionDep) -> HTMLResponse:
    """The result of a training run, the version that a rollback has published, or the trials of a sweep."""
    run = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
    if run is None:
        raise HTTPException(404, "There is no such run.")
    workspace = Workspace.from_environment()
    models, folder = ModelDirectory(workspace.models), run_folder(workspace, run_id)
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
            champion_now=champion_now(models),
        )
    if dag_id == SWEEP:
        return page(
            request,
            "sweep.html",
            title="Sweep",
            run=run,
            why=failures(session, tasks, None),
            shown=sweep_report(workspace.sweep_folder(run_id)),
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
        plots=training_plots(shown),
        compare_with=compare_with_champion(f"run:{run_id}", shown),
        images=f"runs/{dag_id}/{run_id}",
        run=run,
        why=failures(session, tasks, shown.decision),
        answer_at=waits_for_answer(tasks),
        live=within_epochs(shown.progress) if shown.progress else None,
        at_work=[task.task_id for task in tasks if task.state == "running"],
        published=published_as(folder, models),
        champion_now=champion_now(models),
    )


@app.get("/runs/{dag_id}/{run_id}/figures/{name}", dependencies=RunAccess)
def run_figure(dag_id: str, run_id: str, name: str) -> FileResponse:
    """A figure of a run."""
    if dag_id != TRAINING:
        raise HTTPException(404, "There is no such figure.")
    return figure_file(run_folder(Workspace.from_environment(), run_id), name)


@app.get("/static/{name}")
def static(name: str) -> FileResponse:
    """The pages' style and script."""
    if name not in STATIC:
        raise HTTPException(404, "There is no such page.")
    folder = HERE / "static" / ("uplot" if name.startswith("uPlot") else "")
    return FileResponse(folder / name, media_type=STATIC[name])
