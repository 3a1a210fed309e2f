"""Fixtures for the tests of the pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from airflow.api_fastapi.app import create_app, purge_cached_app
from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
from airflow.models.dagbundle import DagBundleModel
from airflow.models.dagrun import DagRun
from airflow.utils.db import initdb
from airflow.utils.session import create_session
from fastapi import FastAPI
from sqlalchemy import select

from mnist_tasks.workspace import PROJECT, Workspace
from tests.plugins.site import BUNDLE, Airflow, Browser, promoted_run


@pytest.fixture(scope="module")
def server() -> Iterator[FastAPI]:
    """Airflow's application, with the project's DAGs in its database."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "AIRFLOW__API_AUTH__JWT_SECRET", "a secret of sixty-four bytes, so that nobody warns of a short one"
        )
        patch.setenv("AIRFLOW__API__HOST", "127.0.0.1")
        initdb()
        dags = PROJECT / "dags"
        with create_session() as session:
            if not session.get(DagBundleModel, BUNDLE):
                session.add(DagBundleModel(name=BUNDLE))
        sync_bag_to_db(BundleDagBag(str(dags), bundle_path=dags, bundle_name=BUNDLE), BUNDLE, None)
        purge_cached_app()
        yield create_app(apps="core")
        purge_cached_app()


@pytest.fixture
def browser(server: FastAPI) -> Browser:
    return Browser(server)


@pytest.fixture
def airflow(server: FastAPI) -> Iterator[Airflow]:
    assert server.routes
    with create_session() as session:  # what the tests of the DAGs have left in this worker's database
        for run in session.scalars(select(DagRun)).all():
            session.delete(run)
    made = Airflow()
    yield made
    with create_session() as session:
        for run in made.made:
            session.delete(session.merge(run))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("MNIST_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("mnist_ui.verified.PAUSE_SECONDS", 0.0)
    return Workspace(tmp_path / "home")


@pytest.fixture
def promoted(home: Workspace, airflow: Airflow) -> str:
    """The id of a run whose candidate became version 1 and champion."""
    return promoted_run(home, airflow)
