"""Where `train` and `evaluate` run under the KubernetesExecutor: a pod with a GPU; only imported if it is asked for."""

from __future__ import annotations

from typing import Any

from kubernetes.client import models


def gpu_pod(image: str) -> dict[str, Any]:
    """The `executor_config` of a task that gets a GPU of its own, in a container of this image.

    Everything else is as in the executor's pod template.
    """
    container = models.V1Container(
        name="base",  # the one that Airflow runs the task in
        image=image,
        # All of them: Airflow does not merge these with the template's.
        resources=models.V1ResourceRequirements(
            requests={"cpu": "1", "memory": "1Gi"}, limits={"memory": "4Gi", "nvidia.com/gpu": "1"}
        ),
    )
    return {"pod_override": models.V1Pod(spec=models.V1PodSpec(containers=[container]))}
