"""Imports in `mnist_tasks` go from the tasks down to the system, never up and never in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from mnist_tasks.workspace import PROJECT

PACKAGE = PROJECT / "mnist_tasks"
TASKS = ("load", "normalize", "train", "evaluate", "promote", "rollback", "mirror", "track", "clean")
# Groups from the lowest to the highest. A module imports from its own group and from the groups before it.
GROUPS = [
    ("system",),
    (
        "documents",
        "gate",
        "gate_checks",
        "gate_config",
        "gate_rules",
        "recipes",
        "config",
        "run_parameters",
        "workspace",
    ),
    ("data",),
    ("evaluation",),
    ("registry",),
    ("training",),
    (*TASKS, "sweep"),
    ("installation", "night", "cli", "__main__"),
]
RANK = {name: rank for rank, group in enumerate(GROUPS) for name in group}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}


def imported(path: Path) -> Iterator[str]:
    """Yield the package modules that a file imports anywhere, named relative to the package."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        yield from (name for name in (name.removeprefix("mnist_tasks.") for name in names) if name in MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_nothing_from_above(module: str) -> None:
    rank = RANK[module.partition(".")[0]]

    assert not [name for name in imported(MODULES[module]) if RANK[name.partition(".")[0]] > rank]


def test_no_modules_import_each_other() -> None:
    TopologicalSorter({name: set(imported(path)) for name, path in MODULES.items()}).prepare()  # raises CycleError


def airflow_imports(nodes: Iterator[ast.AST]) -> list[str]:
    """The modules of Airflow that are imported."""
    found: list[str] = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
    return [name for name in found if name.partition(".")[0] == "airflow"]


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_airflow_but_the_one_that_reads_connections_when_asked(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    nodes = iter(tree.body) if module == "system.connections" else ast.walk(tree)

    assert airflow_imports(nodes) == []
