"""Make runs with all files that the tasks write, of realistic size, without training."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from mnist_tasks.system.files import sha256, write_json
from mnist_tasks.workspace import Workspace

DIGEST = "7" * 64
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
IMAGES = 1000  # of each digit


def metrics(accuracy: float, integrity: bool = True) -> dict[str, Any]:
    """Return a model's part of `evaluation.json`, with the same recall for each digit."""
    right = round(accuracy * IMAGES)
    wrong, rest = divmod(IMAGES - right, 9)
    confusion = [
        [right if i == j else wrong + (rest if j == (i + 1) % 10 else 0) for j in range(10)] for i in range(10)
    ]
    findings = ["loads", "saved model loads", "signature", "output", "finite", "sums", "agrees", "test images finite"]
    return {
        "dataset": DIGEST,
        "objective": {"loss": "sparse_categorical_crossentropy", "label_smoothing": 0.0},
        "integrity": [
            {"metric": name, "passed": integrity, "value": None, "bound": None, "message": f"{name}: {integrity}"}
            for name in findings
        ],
        "loss": 0.07,
        "accuracy": right / IMAGES,
        "accuracy_95": [right / IMAGES - 0.003, min(1.0, right / IMAGES + 0.003)],
        "digits": [
            {"digit": digit, "support": IMAGES, **dict.fromkeys(("precision", "recall", "f1"), right / IMAGES)}
            for digit in range(10)
        ],
        "confusion": confusion,
        "mnist": {"is_test_set": True, "accuracy": right / IMAGES},
        "brier": 0.035,
        "calibration_error": 0.002,
        "calibration": [{"images": IMAGES, "confidence": 0.98, "accuracy": right / IMAGES}],
        "slices": [{"name": name, "support": 900, "accuracy": right / IMAGES} for name in ("thin strokes", "small")],
        "changed": [{"name": name, "support": 2000, "accuracy": 0.96} for name in ("noisy", "faint")],
        "training": {
            "dataset": DIGEST,
            "images": 60000,
            "loss": 0.04,
            "accuracy": 0.988,
            "label_issues": 0.0005,
        },
        "cost": {
            "megabytes": 1.2,
            "parameters": 101770,
            "seconds_for_one": 0.002,
            "seconds_for_many": 0.008,
            "many": 1000,
        },
    }


def evaluation(accuracy: float, champion: tuple[int, float] | None, integrity: bool = True) -> dict[str, Any]:
    """Return `evaluation.json` for a candidate and, given its version and accuracy, a champion."""
    return {
        "dataset": DIGEST,
        "source": "builtin",
        "train_images": 60000,
        "test_images": 10 * IMAGES,
        "files": {},
        "signatures": {},
        "mistakes": [
            {"index": 37 * i, "label": i % 10, "predicted": (i + 1) % 10, "probability": 0.99} for i in range(24)
        ],
        "candidate": metrics(accuracy, integrity),
        "champion": {"version": champion[0], **metrics(champion[1])} if champion else None,
    }


def history(epochs: int = 5) -> list[dict[str, Any]]:
    """Return `history.json` after some epochs."""
    return [
        {
            "number": number,
            "metrics": {"loss": 0.3 / number, "accuracy": 1 - 0.1 / number},
            "seconds": 0.7,
            "images_per_second": 85000.0,
        }
        for number in range(1, epochs + 1)
    ]


def training(run_id: str) -> dict[str, Any]:
    """Return `training.json` of a run."""
    return {
        "config": {"recipe": "classic", "architecture": "mlp", "hidden_units": 128, "epochs": 5, "seed": 42},
        "dataset": DIGEST,
        "library_versions": {"python": "3.11", "tensorflow": "2.21.0", "keras": "3.12.4"},
        "device": "CPU (2 cores)",
        "hardware": {"cpus": 2},
        "git_commit": "c0ffee",
        "seconds": 3.5,
        "weights_sha256": f"weights of {run_id}",
    }


def evaluated_run(
    workspace: Workspace,
    run_id: str,
    accuracy: float = 0.98,
    champion: tuple[int, float] | None = None,
    integrity: bool = True,
) -> Path:
    """Write a run that is evaluated and waits for the gate; return its folder."""
    run = workspace.run(run_id)
    figures = {f"figures/{name}.png": PNG for name in ("recall", "mistakes", "training", "confusion")}
    saved_model = {"saved_model/saved_model.pb": b"pb", "saved_model/variables/variables.index": b"index"}
    files = {"model.keras": run_id.encode() * 100, "golden.npz": b"npz", **saved_model, **figures}
    for name, content in files.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(content)
    write_json(run / "history.json", history())
    write_json(run / "training.json", training(run_id))
    document = evaluation(accuracy, champion, integrity)
    document["files"] = {name: sha256(run / name) for name in (*files, "history.json")}
    document["training_sha256"] = sha256(run / "training.json")
    write_json(run / "evaluation.json", document)
    dataset = workspace.dataset(DIGEST)
    dataset.mkdir(parents=True, exist_ok=True)
    description = {"digest": DIGEST, "source": "builtin", "train_images": 60000, "test_images": 10000}
    description["train_pixel_mean"] = 33.3184
    write_json(dataset / "dataset.json", description)
    return run
