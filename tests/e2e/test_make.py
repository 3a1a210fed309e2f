"""The Makefile passes parameters on byte for byte, and each checkout has its own environment.

The tests use the project's Makefile and set-up script. A small stand-in replaces the rest of the project, so nothing is
trained and only setuptools is installed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnist_tasks.workspace import PROJECT

MAKE, GIT = shutil.which("make") or "", shutil.which("git") or ""
FAILED = 2

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not MAKE, reason="make is not installed")]

# Print the arguments, the location of the code and some environment variables; `status` sets the exit status.
LAUNCHER = """
import json, os, sys
import mnist_tasks
seen = {"arguments": sys.argv[1:], "code": mnist_tasks.__file__, "python": sys.version_info[:2]}
print(json.dumps(seen | {"environment": {name: os.environ.get(name) for name in ("MNIST_HOME", "PORT", "source")}}))
sys.exit(int(dict(a.split("=", 1) for a in sys.argv[1:]).get("status", 0)))
"""


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make in a folder, without the variables of a make that started these tests."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "MNIST"))}
    return subprocess.run(
        [MAKE, *arguments],
        cwd=folder,
        env={**outside, "PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
    )


def seen(result: subprocess.CompletedProcess[str]) -> dict[str, object]:
    """Return what the stand-in for the launcher has printed."""
    found: dict[str, object] = json.loads(result.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project with the same Makefile and scripts, set up."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "scripts").mkdir()
    shutil.copy(PROJECT / "Makefile", folder)
    for name in ("setup.sh", "with_parameters.py"):
        shutil.copy(PROJECT / "scripts" / name, folder / "scripts")
    for name in ("run.py", "up.py", "stack_run.py"):
        (folder / "scripts" / name).write_text(LAUNCHER)
    for package in ("mnist_tasks", "matplotlib"):  # the set-up imports matplotlib
        (folder / package).mkdir()
        (folder / package / "__init__.py").touch()
    (folder / "matplotlib" / "font_manager.py").touch()
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "stand-in"\nversion = "1"\n[tool.setuptools]\npackages = ["mnist_tasks", "matplotlib"]\n'
    )
    locked = (PROJECT / "requirements.txt").read_text()
    setuptools = re.search(r"^setuptools==(?:.*\\\n)*.*$", locked, re.MULTILINE)
    assert setuptools
    (folder / "requirements.txt").write_text(setuptools[0])
    result = make(folder, "ready")
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize(
    "value",
    [
        "https://host.example/d.npz?sig=a&expires=9",
        "/data/my digits.npz",
        "Ann's decision",
        'the "gold" labels',
        "labels checked (ticket 7)",
        "costs $5, $$5, $(HOME) and ${HOME}",
        "signed off by R&D",
        "ops; touch INJECTED",
        "`touch INJECTED` $(shell touch INJECTED)",
        "50% better",
        "/data/*.npz",
        "~/digits.npz",
        r"C:\data\digits and \$x \\",
        "see #12",
        "two\nlines\tand a tab",
        "Größe 数字",
        "a -- b=c d=e",
        "",
    ],
)
def test_a_value_arrives_as_it_was_typed_and_nothing_of_it_is_run(value: str, checkout: Path) -> None:
    result = make(checkout, "run", f"source={value}", "epochs=1")

    assert result.returncode == 0, result.stderr
    assert sorted(seen(result)["arguments"]) == ["epochs=1", f"source={value}"]  # type: ignore[call-overload]
    assert seen(result)["environment"] == {"MNIST_HOME": None, "PORT": None, "source": None}
    assert not (checkout / "INJECTED").exists()


# Make drops leading blanks, and an argument of a process cannot contain a zero byte.
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])).filter(lambda text: text[:1].strip()))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_arrives_as_it_was_typed(checkout: Path, value: str) -> None:
    assert seen(make(checkout, "run", f"source={value}"))["arguments"] == [f"source={value}"]


def test_names_in_capitals_are_settings_for_run_and_for_up(checkout: Path) -> None:
    home = "/data/$(shell touch INJECTED) x"
    for goal in ("run", "up"):
        result = make(checkout, goal, f"MNIST_HOME={home}", "PORT=8081")

        assert seen(result)["arguments"] == []
        assert seen(result)["environment"] == {"MNIST_HOME": home, "PORT": "8081", "source": None}
    assert not (checkout / "INJECTED").exists()


def test_a_value_for_the_stack_arrives_in_its_container_as_it_was_typed(checkout: Path, tmp_path: Path) -> None:
    docker = tmp_path / "docker compose"  # prints its arguments, one per line
    docker.write_text('#!/bin/sh\nfor argument in "$@"; do echo "$argument"; done\n')
    docker.chmod(0o755)

    result = make(checkout, "stack-run", "source=a & b; touch INJECTED", COMPOSE=f"'{docker}'")

    assert result.stdout.splitlines()[-2:] == ["/opt/mnist/scripts/stack_run.py", "source=a & b; touch INJECTED"]
    assert not (checkout / "INJECTED").exists()


@pytest.mark.parametrize("status", [0, 1, 2])
def test_the_status_is_the_launchers(status: int, checkout: Path) -> None:
    assert make(checkout, "run", f"status={status}").returncode == status


def test_a_launcher_that_cannot_be_started_is_no_rejection(checkout: Path, tmp_path: Path) -> None:
    assert make(checkout, "stack-run", COMPOSE=str(tmp_path / "missing")).returncode == FAILED


@pytest.mark.parametrize("option", ["-n", "-q", "-t"])
def test_asking_what_run_would_do_runs_nothing(option: str, checkout: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".venv"))

    result = make(copy, option, "run", "source=a;b")

    assert '"arguments"' not in result.stdout
    assert not (copy / ".venv").exists()


def test_run_beside_another_goal_does_not_skip_that_one(checkout: Path) -> None:
    result = make(checkout, "help", "run")

    assert "make stack-down" in result.stdout
    assert seen(result)["arguments"] == []


def test_an_environment_that_is_there_already_is_left_alone(checkout: Path) -> None:
    before = (checkout / ".venv" / "made-for").stat().st_ino

    result = make(checkout, "run")

    assert len(result.stdout.splitlines()) == 1
    assert (checkout / ".venv" / "made-for").stat().st_ino == before


def test_a_copied_or_moved_checkout_runs_its_own_code(checkout: Path, tmp_path: Path) -> None:
    copy, moved = tmp_path / "copy", tmp_path / "moved"
    shutil.copytree(checkout, copy, symlinks=True)

    result = make(copy, "run")
    assert result.returncode == 0, result.stderr
    assert "belongs to another folder or Python; making it anew" in result.stdout
    assert seen(result)["code"] == str(copy / "mnist_tasks" / "__init__.py")

    copy.rename(moved)
    assert seen(make(moved, "run"))["code"] == str(moved / "mnist_tasks" / "__init__.py")


def test_an_environment_of_another_python_is_made_anew(checkout: Path, tmp_path: Path) -> None:
    """After an upgrade of the system's Python, the link leads to the new one but the packages are for the old one."""
    copy = tmp_path / "upgraded"
    shutil.copytree(checkout, copy, symlinks=True, ignore=shutil.ignore_patterns(".venv"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", copy / ".venv"], check=True)
    (copy / ".venv" / "made-for").write_text(f"{copy} 3 9 {os.uname().machine}\n")
    shutil.copy(checkout / ".venv" / "ready", copy / ".venv")

    result = make(copy, "run")

    assert result.returncode == 0, result.stderr
    assert "making it anew" in result.stdout


def test_a_python_that_is_gone_is_set_up_again(checkout: Path, tmp_path: Path) -> None:
    copy = tmp_path / "gone"
    shutil.copytree(checkout, copy, symlinks=True)
    for link in (copy / ".venv" / "bin").glob("python*"):
        link.unlink()
        link.symlink_to("/no/such/python")

    assert make(copy, "run").returncode == 0


def test_a_set_up_that_fails_is_no_rejection(checkout: Path, tmp_path: Path) -> None:
    copy = tmp_path / "without-network"
    shutil.copytree(checkout, copy, symlinks=True, ignore=shutil.ignore_patterns(".venv"))
    (copy / "requirements.txt").write_text("setuptools==1 --hash=sha256:" + "0" * 64)

    result = make(copy, "run")

    assert (result.returncode, "set-up failed" in result.stderr) == (FAILED, True)


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize("platform", ["x86_64-manylinux_2_28", "aarch64-manylinux_2_28", "aarch64-apple-darwin"])
def test_the_lock_has_a_wheel_of_each_package_for_every_platform(platform: str, python: str) -> None:
    command = [sys.executable, "-m", "uv", "pip", "compile", "--only-binary", ":all:", "requirements.txt"]
    options = ["--python-platform", platform, "--python-version", python, "--no-header", "--no-annotate"]

    result = subprocess.run([*command, *options], cwd=PROJECT, capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stderr
    assert {"apache-airflow==3.3.2", "tensorflow==2.21.0"} <= set(result.stdout.split())


@pytest.mark.parametrize(
    ("system", "machine", "words"),
    [
        ("MINGW64_NT-10.0-22631", "x86_64", "Airflow does not run on Windows; install WSL"),
        ("Darwin", "x86_64", "does not run on a Mac with an Intel processor; use Linux"),
        (
            "FreeBSD",
            "amd64",
            "FreeBSD on amd64 is not supported; use Linux on x86-64 or Arm, or macOS on Apple silicon",
        ),
    ],
)
def test_a_system_that_is_not_supported_is_refused_at_once(
    system: str, machine: str, words: str, tmp_path: Path
) -> None:
    uname = tmp_path / "uname"
    uname.write_text(f'#!/bin/sh\n[ "$1" = -s ] && echo {system} || echo {machine}\n')
    uname.chmod(0o755)
    (tmp_path / "requirements.txt").touch()
    command = ["sh", str(PROJECT / "scripts" / "setup.sh"), "requirements.txt", "ready"]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert result.returncode == 2
    assert words in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_a_set_up_prints_what_it_does_and_nothing_that_looks_like_an_error(checkout: Path, tmp_path: Path) -> None:
    copy = tmp_path / "fresh"
    shutil.copytree(checkout, copy, symlinks=True, ignore=shutil.ignore_patterns(".venv"))

    result = make(copy, "ready", PYTHONWARNINGS="default")

    # What pip says of the package indexes that are set on this machine is none of ours, nor are its own warnings.
    ours = [line for line in result.stderr.splitlines() if "Location '" not in line and "/pip/_internal/" not in line]
    assert [line for line in ours if not line.startswith(" ")] == []
    assert result.stdout.splitlines() == [
        "making a virtual environment in .venv",
        "installing the packages of requirements.txt (2.5 GB; some minutes the first time)",
        "  unpacking",
    ]


def test_a_package_of_another_content_than_was_locked_is_not_installed(checkout: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tampered"
    shutil.copytree(checkout, copy, symlinks=True, ignore=shutil.ignore_patterns(".venv"))
    locked = (copy / "requirements.txt").read_text()
    (copy / "requirements.txt").write_text(re.sub("sha256:[0-9a-f]{64}", "sha256:" + "0" * 64, locked))

    result = make(copy, "run")

    assert result.returncode == FAILED
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in result.stderr


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt", "requirements-stack.txt"])
def test_each_package_is_pinned_with_its_hashes(name: str) -> None:
    lines = (PROJECT / name).read_text().replace("\\\n", " ").splitlines()
    pinned = [line for line in lines if line and not line.lstrip().startswith("#")]

    assert pinned
    assert [line for line in pinned if not re.match(r"\S+==\S+ .*--hash=sha256:[0-9a-f]{64}", line)] == []


def test_a_clone_with_carriage_returns_asked_for_has_none(tmp_path: Path) -> None:
    """Git for Windows converts line ends by default; such clones are used in WSL and Docker Desktop."""
    if not GIT or not (PROJECT / ".git").exists():
        pytest.skip("Git is not installed, or this is not a Git repository to clone")
    clone = tmp_path / "clone"
    subprocess.run([GIT, "clone", "-q", "-c", "core.autocrlf=true", str(PROJECT), clone], check=True)

    listed = subprocess.run([GIT, "ls-files", "--eol"], cwd=clone, check=True, capture_output=True, text=True)

    lines = listed.stdout.splitlines()
    assert lines
    assert [line for line in lines if "w/crlf" in line or "w/mixed" in line] == []
