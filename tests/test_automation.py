"""CI, the Git hooks and the Makefile refer only to commands and targets that exist."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest
import yaml

from mnist_tasks.workspace import PROJECT

MAKEFILE = (PROJECT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
CI_SCRIPT = PROJECT / ".ci" / "run"


def read_yaml(name: str) -> Any:
    return yaml.safe_load((PROJECT / name).read_text(encoding="utf-8"))


def test_the_workflow_runs_the_ci_script_with_actions_pinned_to_a_commit() -> None:
    steps = read_yaml(".github/workflows/ci.yml")["jobs"]["ci"]["steps"]

    assert ".ci/run" in [step.get("run") for step in steps]
    assert os.access(CI_SCRIPT, os.X_OK)
    actions = [step["uses"] for step in steps if "uses" in step]
    assert [action for action in actions if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action)] == []


def test_each_target_that_is_called_or_described_exists() -> None:
    called = re.findall(r"^make ([a-z-]+)$", CI_SCRIPT.read_text(encoding="utf-8"), re.MULTILINE)
    described = re.findall(r'@echo "make ([a-z-]+)', MAKEFILE)

    assert called == ["check", "audit", "test-all", "run"]
    assert set(called) <= set(described) <= TARGETS


@pytest.mark.parametrize("hook", read_yaml(".pre-commit-config.yaml")["repos"][0]["hooks"], ids=lambda hook: hook["id"])
def test_each_hook_runs_a_command_of_make_check(hook: dict[str, Any]) -> None:
    command = hook["entry"].removeprefix(".venv/bin/python ").removesuffix(" --force-exclude")

    assert re.search(rf"^\t\$\(PLAIN\) {re.escape(command)}( \.)?$", MAKEFILE, re.MULTILINE)
