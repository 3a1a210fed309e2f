"""The stack with the packages for S3 and MLflow in its image, and a model server beside it.

The image of TensorFlow Serving is not to be had here. The service runs the stand-in of `tests/servers/serving.py`, with
the arguments, the user, the volume and the port of the Compose file.
"""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.test_stack import Stack, docker, started, wait_until, what_is_missing
from tests.helpers import ANYTHING, HANG_SECONDS, free_port
from tests.servers.start import REQUIREMENTS

pytestmark = [pytest.mark.slow, pytest.mark.stack]

IMAGE = "mnist-serving-stand-in:test"
DOCKERFILE = """
FROM mnist-airflow:test
USER root
COPY serving.py Dockerfile.args /opt/stand-in/
RUN install -m 755 /opt/stand-in/Dockerfile.args /usr/local/bin/tensorflow_model_server
"""
# `tensorflow_model_server --rest_api_port=8501 --model_name=mnist --model_base_path=/models`
SERVER = """#!/bin/sh
for argument; do
    case $argument in
        --rest_api_port=*) port=${argument#*=} ;;
        --model_base_path=*) models=${argument#*=} ;;
        --model_name=mnist) ;;
        *) echo "unknown: $argument" >&2; exit 2 ;;
    esac
done
exec python /opt/stand-in/serving.py "$models" "$port" 0.0.0.0
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if missing := what_is_missing():
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("stack")
    settings = {"EXTRAS": "s3 mlflow", "SERVING_IMAGE": IMAGE, "SERVE_PORT": str(free_port())}
    with started(folder, **settings) as stack:
        (folder / "serving.py").write_text(REQUIREMENTS.with_name("serving.py").read_text())
        (folder / "Dockerfile.args").write_text(SERVER)
        (folder / "Dockerfile").write_text(DOCKERFILE)
        docker("build", "--quiet", "--tag", IMAGE, str(folder))
        try:
            yield stack
        finally:
            stack("--profile", "serve", "down", "--timeout", "10")


def test_the_server_follows_the_champion(stack: Stack) -> None:
    stack("--profile", "serve", "up", "--detach", "--no-recreate", "--no-build", "serving")
    address = f"http://127.0.0.1:{stack.settings['SERVE_PORT']}/v1/models/mnist"
    lenient = [f"{name}={value}" for name, value in ANYTHING.items()]
    assert stack.make("stack-run", "epochs=1", *lenient).returncode == 0
    wait_until(lambda: served(address) == 1)

    checked = stack.make("serve-check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "serves version 1, the champion, and gives the probabilities that were approved\n" in checked.stdout
    assert stack.make("stack-run", "epochs=1", "seed=9", *lenient).returncode == 0
    stack.models("rollback --reason 'it was bad'")
    wait_until(lambda: served(address) == 3)
    assert "serves version 3, the champion" in stack.make("serve-check").stdout

    container = stack.container("serving")
    assert container["Config"]["User"] == "50000:0"
    assert [binding["HostIp"] for binding in container["NetworkSettings"]["Ports"]["8501/tcp"]] == ["127.0.0.1"]


def served(address: str) -> int | None:
    try:
        (version,) = httpx.get(address, timeout=HANG_SECONDS).json().get("model_version_status", [{}])
    except (httpx.HTTPError, ValueError):
        return None
    return int(version.get("version", 0))


def test_the_image_has_the_packages_that_were_asked_for(stack: Stack) -> None:
    for service in ("worker", "worker-gpu"):
        script = "python -c 'import s3fs, mlflow, airflow.providers.amazon.aws.fs.s3; print(mlflow.__version__)'"
        assert stack.shell(service, script).strip()
