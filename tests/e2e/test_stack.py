"""The stack of docker-compose.yaml on a real Docker engine is built, started, used, and broken part by part.

Two tests run wherever there is a Docker engine; `make stack-test` runs all tests. They use a separate Compose project
with its own volumes and port, and remove it at the end.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import stack_env
from stack_run import PatientClient

from mnist_tasks.workspace import PROJECT
from tests.helpers import COUNTS, HANG_SECONDS, free_port

BASES = ("python:3.12-slim-bookworm", "postgres:17", "redis:7")
SERVICES = (
    "api-server",
    "cleaner",
    "dag-processor",
    "postgres",
    "redis",
    "scheduler",
    "triggerer",
    "worker",
    "worker-gpu",
)
HEALTHY = [(service, "healthy") for service in SERVICES]
DOCKER, MAKE = (shutil.which(name) or name for name in ("docker", "make"))
TASKS = ("load", "normalize", "train", "evaluate", "promote")

# Long enough to break something during the training. The seed, and therefore the weights, are always the same. A model
# that is trained for so long is very sure of its mistakes, so the allowed loss is high.
LONG = {"epochs": 80, "max_loss": 1, "max_loss_increase": 1, "max_loss_slide": 1, "max_calibration_increase": 1}

pytestmark = pytest.mark.slow


def what_is_missing() -> str | None:
    """Return why the stack cannot run here, or None if it can."""
    missing = _missing_part()
    return missing and f"the stack needs a Docker engine with Compose v2 and base images: {missing}"


def _missing_part() -> str | None:
    if not shutil.which("docker"):
        return "there is no docker command"
    for command, missing in (
        ([DOCKER, "info", "--format", "{{.ServerVersion}}"], "no Docker engine answers"),
        ([DOCKER, "compose", "version"], "the Docker engine is there, but not Compose v2"),
    ):
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return missing
    for image in BASES:
        for command in ([DOCKER, "image", "inspect", image], [DOCKER, "pull", "--quiet", image]):
            if not subprocess.run(command, capture_output=True, check=False).returncode:
                break
        else:
            return f"the image {image} is not here and cannot be pulled"
    return None


class Stack:
    """A Compose project for these tests only, and the API of its Airflow."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self.port, self.settings = free_port(), settings
        self.env = folder / ".env"
        made = stack_env.text(gpu=False)
        ours = {"PORT": str(self.port), "TAG": "test", "MNIST_SCHEDULE": "", **settings}
        self.env.write_text(made + "".join(f"{name}={value}\n" for name, value in ours.items()))
        self.secrets = dict(re.findall(r"^(\w+)=(\S{16,})$", made.partition("COMPOSE_FILE")[0], re.MULTILINE))
        self.client = PatientClient(f"http://127.0.0.1:{self.port}", self.secrets["ADMIN_PASSWORD"])
        # A small disk for MNIST_HOME, which a test can fill without filling the disk of the machine.
        (folder / "small-disk.yaml").write_text(
            "volumes: {home: {driver_opts: {type: tmpfs, device: tmpfs, o: 'size=1g,uid=50000'}}}\n"
        )
        files = [PROJECT / "docker-compose.yaml", PROJECT / "docker-compose.no-gpu.yaml", folder / "small-disk.yaml"]
        self.compose = [DOCKER, "compose", "--project-name", f"mnist-test-{self.port}", "--env-file", str(self.env)]
        for file in files:
            self.compose += ["--file", str(file)]

    def make(self, target: str, *parameters: str) -> subprocess.CompletedProcess[str]:
        """Run `make TARGET` on this Compose project."""
        command = [MAKE, target, *parameters]
        # If make has started these tests, its flags must not reach the make started here.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        environment["COMPOSE"] = shlex.join(self.compose)
        return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)

    def __call__(self, *arguments: str) -> str:
        """Run a Compose command and return its output."""
        result = subprocess.run([*self.compose, *arguments], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def containers(self) -> list[dict[str, Any]]:
        """Return what `docker inspect` says about each running container."""
        inspected: list[dict[str, Any]] = json.loads(docker("inspect", *self("ps", "--quiet").split()))
        return inspected

    def container(self, service: str) -> dict[str, Any]:
        """Return what `docker inspect` says about the container of one service."""
        return next(c for c in self.containers() if service_of(c) == service)

    def health(self) -> list[tuple[str, str]]:
        """Return the service and the health of each container, sorted."""
        return sorted((service_of(c), c["State"]["Health"]["Status"]) for c in self.containers())

    def shell(self, service: str, script: str) -> str:
        """Run a shell script in the container of a service and return its output."""
        return self("exec", "--no-TTY", service, "sh", "-c", script)

    def api(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        """Send a request to Airflow's API and return the answer; wait while the API server is not available."""
        result: dict[str, Any] = self.client.request(method, f"/api/v2{path}", **arguments).raise_for_status().json()
        return result

    def models(self, command: str) -> Any:
        """Run `mnist_tasks models COMMAND` in the stack and return its parsed output."""
        return json.loads(self.shell("worker", f"python -m mnist_tasks models {command} --json"))


def service_of(container: dict[str, Any]) -> str:
    return str(container["Config"]["Labels"]["com.docker.compose.service"])


def docker(*arguments: str) -> str:
    return subprocess.run([DOCKER, *arguments], check=True, capture_output=True, text=True).stdout


class Run:
    """A run of a DAG on the stack."""

    def __init__(self, stack: Stack, dag: str, parameters: dict[str, Any]) -> None:
        self.stack, self.runs = stack, f"/dags/{dag}/dagRuns"
        body = {"logical_date": None, "conf": parameters}
        self.id = stack.api("POST", self.runs, json=body)["dag_run_id"]
        self.started = time.monotonic()

    @property
    def state(self) -> str:
        return str(self.stack.api("GET", f"{self.runs}/{self.id}")["state"])

    def task(self, name: str) -> dict[str, Any]:
        return self.stack.api("GET", f"{self.runs}/{self.id}/taskInstances/{name}")

    def log(self, task: str, attempt: int) -> str:
        """Return the log of a try, as the UI gets it."""
        content = self.stack.api("GET", f"{self.runs}/{self.id}/taskInstances/{task}/logs/{attempt}")["content"]
        return "\n".join(line["event"] for line in content)

    def wait_for_epoch(self, epoch: int) -> None:
        """Wait until `train` has logged the end of an epoch."""
        wait_until(lambda: self.task("train")["state"] == "running")
        wait_until(lambda: f"epoch {epoch}/" in self.log("train", 1))

    def wait(self) -> str:
        """Wait until the run has ended; return its state."""
        wait_until(lambda: self.state not in ("queued", "running"))
        return self.state


def wait_until(condition: Callable[[], object]) -> None:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < HANG_SECONDS, f"the condition is not met after {HANG_SECONDS} s"
        time.sleep(0.5)


def took(output: str) -> float:
    """Return the seconds from trigger to end, as `make stack-run` and `make run` print them."""
    (seconds,) = re.findall(r" (\S+) s after it was triggered$", output, re.MULTILINE)
    return float(seconds)


@contextmanager
def started(folder: Path, **settings: str) -> Iterator[Stack]:
    """Build and start the stack with settings in its .env; remove it at the end."""
    stack = Stack(folder, settings)
    try:
        stack("build")
        start = time.monotonic()
        result = stack.make("stack-up")
        assert result.returncode == 0, result.stderr + stack("logs", "--tail", "50")
        COUNTS.append(f"stack: healthy {time.monotonic() - start:.0f} s after up")
        stack.client.log_in()
        yield stack
    finally:
        stack("down", "--volumes", "--timeout", "10")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One stack for all tests."""
    if missing := what_is_missing():
        pytest.skip(missing)
    with started(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


def test_a_run_is_promoted_with_the_training_on_the_gpu_worker(stack: Stack) -> None:
    assert stack.health() == HEALTHY

    result = stack.make("stack-run")

    assert result.returncode == 0, result.stdout + result.stderr
    assert "promoted as version 1: accuracy 0.9" in result.stdout
    COUNTS.append(f"stack: first run {took(result.stdout):.1f} s after it was triggered")
    (run,) = stack.api("GET", "/dags/mnist_training/dagRuns")["dag_runs"]
    instances = stack.api("GET", f"/dags/mnist_training/dagRuns/{run['dag_run_id']}/taskInstances")["task_instances"]
    ran_on = {task["task_id"]: (task["queue"], task["pool"], task["hostname"]) for task in instances}
    hosts = {name: stack.container(name)["Config"]["Hostname"] for name in ("worker", "worker-gpu")}
    on_cpu, on_gpu = ("default", "default_pool", hosts["worker"]), ("gpu", "gpu", hosts["worker-gpu"])
    assert ran_on == {task: on_gpu if task in ("train", "evaluate") else on_cpu for task in TASKS}


def test_kubernetes_gets_a_pod_with_a_gpu_for_the_training(stack: Stack) -> None:
    template = (PROJECT / "docs" / "pod-template.yaml").read_text()
    script = (
        "import sys, yaml\n"
        "from pathlib import Path\n"
        "from airflow.dag_processing.dagbag import BundleDagBag\n"
        "from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator\n"
        "from airflow.serialization.serialized_objects import DagSerialization\n"
        "folder = Path('/opt/mnist/dags')\n"
        "bag = BundleDagBag(str(folder), bundle_path=folder, bundle_name='dags-folder')\n"
        "assert not bag.import_errors, bag.import_errors\n"
        "dag, sweep = bag.dags['mnist_training'], bag.dags['mnist_sweep']\n"
        "DagSerialization.to_dict(dag)\n"
        "DagSerialization.to_dict(sweep)\n"
        "template = PodGenerator.deserialize_model_dict(yaml.safe_load(sys.argv[1]))\n"
        "configs = {name: dag.get_task(name).executor_config for name in ('load', 'train', 'evaluate')}\n"
        "configs['trial'] = sweep.get_task('trial').partial_kwargs['executor_config']\n"
        "for name, config in configs.items():\n"
        "    pod = PodGenerator.reconcile_pods(template, config.get('pod_override'))\n"
        "    (base,) = pod.spec.containers\n"
        "    print(name, base.name, base.image, base.resources.limits, len(base.volume_mounts))\n"
    )
    override = ["--env", "MNIST_KUBERNETES_GPU_IMAGE=gpu:1"]
    output = stack("exec", "--no-TTY", *override, "worker", "python", "-c", script, template)

    assert output.splitlines()[-4:] == [
        "load base registry.example.com/mnist-airflow:1 {'memory': '4Gi'} 3",
        "train base gpu:1 {'memory': '4Gi', 'nvidia.com/gpu': '1'} 3",
        "evaluate base gpu:1 {'memory': '4Gi', 'nvidia.com/gpu': '1'} 3",
        "trial base gpu:1 {'memory': '4Gi', 'nvidia.com/gpu': '1'} 3",
    ]


@pytest.mark.stack
def test_a_rejected_run_says_so(stack: Stack) -> None:
    result = stack.make("stack-run", "epochs=1", "min_accuracy=0.998")

    assert result.returncode == 1, result.stdout + result.stderr
    assert re.search(r"^rejected: accuracy 0\.\d+ is below the minimum of 0\.9980", result.stdout, re.MULTILINE)
    assert stack.models("verify") == []


@pytest.mark.stack
def test_a_rollback_publishes_an_older_version_again(stack: Stack) -> None:
    result = stack.make("stack-run")
    assert result.returncode == 0, result.stdout + result.stderr
    COUNTS.append(f"stack: the same again {took(result.stdout):.1f} s after it was triggered")

    assert Run(stack, "mnist_rollback", {"reason": "a test"}).wait() == "success"

    assert [version["version"] for version in stack.models("list")] == [1, 2, 3]
    last = stack.models("history")[-1]
    assert (last["event"], last["from"], last["to"]) == ("rolled back", 2, 3)


@pytest.mark.stack
@pytest.mark.parametrize("path", ["/api/v2/dags", "/mnist/models", "/api/v2/connections"])
def test_nothing_is_shown_without_a_login(path: str, stack: Stack) -> None:
    assert httpx.get(f"http://127.0.0.1:{stack.port}{path}", trust_env=False).status_code == 401


@pytest.mark.stack
def test_only_the_api_server_has_a_port_and_on_loopback_only(stack: Stack) -> None:
    bindings = [binding for c in stack.containers() for binding in c["NetworkSettings"]["Ports"].values() if binding]

    assert bindings == [[{"HostIp": "127.0.0.1", "HostPort": str(stack.port)}]]


@pytest.mark.stack
def test_no_secret_is_in_an_image_or_a_log_and_nobody_is_root(stack: Stack) -> None:
    images = docker("inspect", "mnist-airflow:test") + docker("history", "--no-trunc", "mnist-airflow:test")
    logs = stack("logs") + stack.shell("worker", "cat $(find /opt/mnist/logs -type f)")

    assert len(stack.secrets) == 6
    for name, secret in stack.secrets.items():
        assert secret not in images, name
        assert secret not in logs, name
    for service in set(SERVICES) - {"postgres"}:
        assert stack.shell(service, "id -u").strip() != "0", service
    written = stack.shell("worker", "touch /opt/mnist/dags/new.py 2>&1 || true")
    assert "Read-only file system" in written


@pytest.mark.stack
def test_more_workers_can_be_added(stack: Stack) -> None:
    stack("up", "--detach", "--wait", "--no-recreate", "--scale", "worker=3")
    try:
        assert stack.health() == sorted([*HEALTHY, *[("worker", "healthy")] * 2])
        assert Run(stack, "mnist_training", {"epochs": 1, "min_accuracy": 0.99}).wait() == "success"
    finally:
        stack("up", "--detach", "--wait", "--no-recreate", "--scale", "worker=1")


@pytest.mark.stack
def test_the_whole_stack_rests_within_6_gib(stack: Stack) -> None:
    lines = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", *stack("ps", "--quiet").split()).splitlines()
    sizes = [re.match(r"([\d.]+)([KMG])iB", line) for line in lines]
    total = sum(float(m[1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[m[2]] for m in sizes if m)
    COUNTS.append(f"stack: {total / 2**30:.2f} GiB at rest")

    assert len(lines) == len(SERVICES)
    assert total < 6 * 2**30


def kill_the_gpu_worker(stack: Stack) -> None:
    # Docker does not restart a container that `docker kill` has ended.
    os.kill(stack.container("worker-gpu")["State"]["Pid"], signal.SIGKILL)


def stop_the_gpu_worker(stack: Stack) -> None:
    stack("stop", "worker-gpu")
    time.sleep(120)
    stack("start", "worker-gpu")


def cut_the_network(stack: Stack) -> None:
    """Cut the network between the GPU worker and the API server, and nothing else, for 30 s."""
    (network,) = stack.container("api-server")["NetworkSettings"]["Networks"].values()
    worker = str(stack.container("worker-gpu")["State"]["Pid"])
    inside = [shutil.which("nsenter") or "nsenter", "--net", "--target", worker]
    rule = ["OUTPUT", "--destination", network["IPAddress"], "--jump", "DROP"]
    try:
        subprocess.run([*inside, "iptables", "--append", *rule], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cutting the network needs root, nsenter and iptables: {error}")
    time.sleep(30)
    subprocess.run([*inside, "iptables", "--delete", *rule], check=True)


def fill_the_disk(stack: Stack) -> None:
    """Fill the disk until the training has noticed."""
    stack.shell("worker", "dd if=/dev/zero of=/opt/mnist/home/filler bs=1M 2>/dev/null || true")
    time.sleep(20)
    stack.shell("worker", "rm /opt/mnist/home/filler")


def restart(service: str) -> Callable[[Stack], None]:
    def fault(stack: Stack) -> None:
        stack("restart", service)

    return fault


@pytest.fixture(scope="module")
def undisturbed(stack: Stack) -> tuple[str, float]:
    """The digest of the weights of a `LONG` run, and its duration in seconds."""
    # The first run on a stack writes the dataset and has cold caches, so it is not timed.
    assert Run(stack, "mnist_training", {"epochs": 1}).wait() == "success"
    run = Run(stack, "mnist_training", LONG)
    assert run.wait() == "success"
    seconds = time.monotonic() - run.started
    COUNTS.append(f"stack: undisturbed run of {LONG['epochs']} epochs {seconds:.0f} s")
    return weights(stack), seconds


def weights(stack: Stack) -> str:
    """Return the digest of the champion's weights."""
    return str(json.loads(stack.shell("worker", "cat /opt/mnist/home/models/champion/metadata.json"))["weights_sha256"])


FAULTS: dict[str, Callable[[Stack], None]] = {
    "SIGKILL of worker-gpu": kill_the_gpu_worker,
    "restart of the api-server": restart("api-server"),
    "restart of postgres": restart("postgres"),
    "restart of redis": restart("redis"),
    "restart of the scheduler": restart("scheduler"),
    "worker-gpu cut from the api-server for 30 s": cut_the_network,
    "disk of MNIST_HOME full for 20 s": fill_the_disk,
    "worker-gpu stopped for 120 s": stop_the_gpu_worker,
}


@pytest.mark.stack
@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_survives_while_it_trains(fault: str, stack: Stack, undisturbed: tuple[str, float]) -> None:
    expected, seconds = undisturbed
    before = len(stack.models("list"))
    run = Run(stack, "mnist_training", LONG)
    run.wait_for_epoch(5)

    broken = time.monotonic()
    FAULTS[fault](stack)
    # The fault is noticed once a second try is due.
    noticed = None
    while run.state in ("queued", "running"):
        if noticed is None and run.task("train")["try_number"] + (run.task("train")["state"] == "up_for_retry") > 1:
            noticed = time.monotonic() - broken
        time.sleep(0.5)
    tries = run.task("train")["try_number"]
    lasted = time.monotonic() - run.started
    COUNTS.append(
        f"stack: {fault}: {f'noticed after {noticed:.0f} s, ' if noticed else ''}{tries} tries of train, run ended "
        f"{run.state} {lasted:.0f} s after its start ({lasted - seconds:+.0f} s)"
    )

    assert run.state == "success"
    if tries > 1:
        assert re.search(r"continuing after epoch \d+, where an earlier try stopped", run.log("train", tries))
    assert len(stack.models("list")) == before + 1
    assert weights(stack) == expected
    assert stack.models("verify") == []
    wait_until(lambda: stack.health() == HEALTHY)
