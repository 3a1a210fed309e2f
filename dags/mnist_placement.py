"""Where the tasks that want a GPU run, as the settings of the installation say, and how tasks are tried again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from mnist_tasks.installation import value

ON_GPU: dict[str, Any] = {
    "queue": value("MNIST_GPU_QUEUE") or "default",
    "pool": value("MNIST_GPU_POOL") or "default_pool",
}
if GPU_IMAGE := value("MNIST_KUBERNETES_GPU_IMAGE"):
    from mnist_kubernetes import gpu_pod

    ON_GPU["executor_config"] = gpu_pod(GPU_IMAGE)

TRIES: dict[str, Any] = {
    "retries": 2,
    "retry_delay": timedelta(seconds=30),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=10),
    "execution_timeout": timedelta(minutes=10),
}
