"""Where the tasks that want a GPU run, as the settings of the installation say, and how tasks are tried again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from mnist_tasks.installation import value

TRIES: dict[str, Any] = {
    "retries": 2,
    "retry_delay": timedelta(seconds=30),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=10),
    "execution_timeout": timedelta(minutes=10),
}


def on_gpu() -> dict[str, Any]:
    """The queue and the pool of a task that wants a GPU, and on Kubernetes its pod.

    Raises:
        InputError: if a setting cannot be used. Then the file that asks cannot be imported, and everybody sees why.
    """
    placed: dict[str, Any] = {
        "queue": value("MNIST_GPU_QUEUE") or "default",
        "pool": value("MNIST_GPU_POOL") or "default_pool",
    }
    if image := value("MNIST_KUBERNETES_GPU_IMAGE"):
        from mnist_kubernetes import gpu_pod

        placed["executor_config"] = gpu_pod(image)
    return placed
