"""Airflow's connections: the credentials of object stores and servers that a setting or a source names by their id.

The only module of the package that imports Airflow, and only when a connection is named.
"""

from __future__ import annotations

from typing import Any

from mnist_tasks.system.errors import InputError


def connection(conn_id: str) -> Any:
    """An Airflow connection; raises an `InputError` if there is none with this id."""
    from airflow.sdk import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        return Connection.get(conn_id)
    except AirflowNotFoundException as error:
        raise InputError(
            f"Airflow has no connection {conn_id}; add it in the UI under Admin > Connections, or with the environment "
            f"variable AIRFLOW_CONN_{conn_id.upper()}"
        ) from error


def file_system(scheme: str, conn_id: str) -> Any:
    """fsspec's file system for a scheme, with the credentials of a connection.

    Raises:
        InputError: if there is no such connection.
        ImportError: if no package that knows the scheme is installed.
    """
    connection(conn_id)  # Amazon's provider would go on without credentials
    from airflow.sdk.io.fs import get_fs, has_fs

    if not has_fs(scheme):
        raise ImportError(f"no provider for {scheme}")
    return get_fs(scheme, conn_id)
