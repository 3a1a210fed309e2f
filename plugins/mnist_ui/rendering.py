"""Renders the templates, and what several pages show."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import FileResponse, HTMLResponse
from jinja2 import ChainableUndefined, Environment, FileSystemLoader
from jinja2.utils import htmlsafe_json_dumps
from starlette.exceptions import HTTPException

from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.system.errors import InputError
from mnist_tasks.workspace import Workspace
from mnist_ui.charts import Plot, epochs
from mnist_ui.report import Report, figure

TRAINING, ROLLBACK, SWEEP = "mnist_training", "mnist_rollback", "mnist_sweep"
HERE = Path(__file__).parent


def written(value: object, digits: int, sign: str) -> str:
    """A whole number with commas, any other with this many digits behind the point, `-` for what is no number."""
    if isinstance(value, int):
        return f"{value:{sign},}"
    return f"{value:{sign}.{digits}f}" if isinstance(value, float) else "-"


AIRFLOWS_RUN_ID = re.compile(r"([a-z_]+)__(\d{4}-\d\d-\d\d)T(\d\d:\d\d).*")


def run_name(run_id: str) -> str:
    """A run's id for a narrow column: how it was triggered and the minute, if Airflow has made the id."""
    made = AIRFLOWS_RUN_ID.fullmatch(run_id)
    return f"{made[1].replace('_', ' ')} {made[2]} {made[3]}" if made else run_id


# A value that a damaged version or one of an older release does not have is left blank.
templates = Environment(
    loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=ChainableUndefined, trim_blocks=True
)
templates.filters["number"] = lambda value, digits=4: f"{value:.{digits}f}" if isinstance(value, int | float) else "-"
templates.filters["value"] = lambda value, digits=4: written(value, digits, "")
templates.filters["signed"] = lambda value, digits=4: written(value, digits, "+")
templates.filters["json"] = lambda plot: htmlsafe_json_dumps(asdict(plot))
templates.filters["p_value"] = lambda value: f"= {value:.3f}" if value >= 0.001 else "< 0.001"
templates.filters["run_name"] = run_name
templates.filters["minute"] = lambda text: str(text)[:16].replace("T", " ") if text else "-"
templates.filters["time"] = lambda text: str(text)[:19].replace("T", " ") + " UTC" if text else "-"


def page(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Render a template. Its `root` is where this application is mounted, its `airflow` where Airflow is."""
    root = root_of(request)
    text = templates.get_template(template).render(root=root, airflow=root.removesuffix("/mnist"), **values)
    return HTMLResponse(text, status)


def root_of(request: Request) -> str:
    return str(request.scope.get("root_path", "")).rstrip("/")


def champion_now(models: ModelDirectory) -> str:
    """Who is champion now, as a sentence."""
    champion_now = models.describe_champion()
    return f"{champion_now[0].upper()}{champion_now[1:]}."


def training_plots(shown: Report) -> dict[str, Plot]:
    """The charts of a training."""
    plots = {metric: epochs(metric, {"": shown.history}) for metric in ("accuracy", "loss")}
    return {metric: plot for metric, plot in plots.items() if plot}


def compare_with_champion(name: str, shown: Report) -> str | None:
    """The query that compares a model with the champion that it was measured against; None if there was none."""
    champion = shown.evaluation.champion if shown.evaluation else None
    return urlencode({"of": [str(champion.version), name]}, doseq=True) if champion and champion.version else None


def run_folder(workspace: Workspace, run_id: str) -> Path:
    try:
        return workspace.run_folder(run_id)
    except InputError as error:
        raise HTTPException(404, str(error)) from None


def figure_file(folder: Path, name: str) -> FileResponse:
    path = figure(folder, name)
    if path is None:
        raise HTTPException(404, "There is no such figure.")
    return FileResponse(path, media_type="image/png")
