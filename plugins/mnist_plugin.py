"""The pages about the models in Airflow's UI: `Models` in the navigation, `Model` as a tab of each DAG run.

Every process of Airflow loads its plugins, tasks among them; so the pages themselves are imported at the first request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from airflow.plugins_manager import AirflowPlugin

Message = MutableMapping[str, Any]


async def pages(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """The ASGI application, which Airflow's API server mounts."""
    from mnist_ui.app import app

    await app(scope, receive, send)


APP = {"app": pages, "url_prefix": "/mnist", "name": "mnist"}
MODELS = {
    "name": "Models",
    "href": "mnist/models",
    "destination": "nav",
    "category": "browse",
    "url_route": "mnist-models",
}
MODEL = {
    "name": "Model",
    "href": "mnist/runs/{DAG_ID}/{RUN_ID}",
    "destination": "dag_run",
    "url_route": "mnist-run",
}


class MnistPlugin(AirflowPlugin):
    """Registers the pages."""

    name = "mnist"
    fastapi_apps = [APP]  # noqa: RUF012 - as AirflowPlugin declares it
    external_views = [MODELS, MODEL]  # noqa: RUF012
