"""The setup around a task: its report, TensorFlow's native log, and crashes that end the process."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys

import pytest

from mnist_tasks.system.task_log import log_resources, peak_memory_mb
from mnist_tasks.system.tensorflow_setup import native_level, use_devices


def test_a_task_reports_its_duration_and_peak_memory(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    @log_resources
    def work(number: int) -> int:
        return number + 1

    assert work(1) == 2
    assert caplog.messages == [f"work took 0.0 s; peak memory {peak_memory_mb():.0f} MB"]


@pytest.mark.parametrize(
    ("severity", "text", "level"),
    [
        ("I", "oneDNN custom operations are on.", logging.DEBUG),
        ("W", "a warning", logging.WARNING),
        ("E", "failed call to cuInit: INTERNAL: CUDA error", logging.DEBUG),
        ("E", "out of memory", logging.WARNING),
        ("F", "check failed", logging.CRITICAL),
    ],
)
def test_native_lines_get_their_level(severity: str, text: str, level: int) -> None:
    assert native_level(severity, text) == level


def python(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process that logs to standard output, because no task process logs to file descriptor 2."""
    header = (
        "import ctypes, logging, os, signal, sys\n"
        "from mnist_tasks.system.tensorflow_setup import tensorflow_in_airflow\n"
        "logging.basicConfig(level=logging.DEBUG, stream=sys.stdout, format='%(levelname)s %(name)s %(message)s')\n"
    )
    return subprocess.run(
        [sys.executable, "-c", header + script], text=True, capture_output=True, timeout=600, check=False
    )


def test_the_native_log_comes_out_of_tensorflow_at_its_own_level() -> None:
    result = python("os.environ['TF_ENABLE_ONEDNN_OPTS'] = '1'\nwith tensorflow_in_airflow():\n    import tensorflow")

    assert "DEBUG tensorflow oneDNN custom operations are on" in result.stdout
    assert "ERROR" not in result.stdout
    assert result.stderr == ""


def test_other_lines_are_logged_and_standard_error_is_given_back() -> None:
    result = python(
        "with tensorflow_in_airflow():\n"
        "    os.write(2, b'some text\\n\\nE0000 00:00:1.5 123 a/b.cc:7] it broke\\n')\n"
        "os.write(2, b'after\\n')"
    )

    assert result.stdout.splitlines() == ["INFO tensorflow some text", "WARNING tensorflow it broke"]
    assert result.stderr == "after\n"


@pytest.mark.parametrize("when", ["inside", "after"])
def test_a_native_crash_prints_its_stack_and_ends_the_process(when: str) -> None:
    """The process would loop for ever under the signal handler that Airflow's DAG parser leaves behind."""
    crash = "ctypes.string_at(0)"
    result = python(
        "signal.signal(signal.SIGSEGV, lambda *_: None)\n"
        f"with tensorflow_in_airflow():\n    {crash if when == 'inside' else 'pass'}\n{crash}"
    )

    assert result.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in result.stderr
    assert "string_at" in result.stderr


def test_a_gpu_is_named_and_its_memory_taken_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of TensorFlow's devices is faked, because most machines that run the tests have no GPU."""
    import tensorflow as tf

    gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    growth: dict[tf.config.PhysicalDevice, bool] = {}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: [gpu])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", growth.__setitem__)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda _: {"device_name": "NVIDIA H100"})

    assert use_devices() == "GPU NVIDIA H100"
    assert growth == {gpu: True}
