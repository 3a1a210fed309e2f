"""How long `mirror` takes against the size of the model, over S3's protocol on loopback and into a folder.

Usage, in the checkout: python -m benchmarks.mirror [ROUNDS [JSON FILE]]. In each round, for each size, a new version is
copied to both, and then once more when all is there. The server is moto's, on the same machine: a real store adds its
latency to the three requests that each file takes, and its bandwidth, there and back.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import fsspec  # type: ignore[import-untyped]

from benchmarks.machine import machine
from mnist_tasks.mirror import mirror
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.publishing import publish
from mnist_tasks.system.files import sha256, write_json
from tests.helpers import stand_in, with_documents
from tests.servers.start import s3

MEGABYTES = (1, 10, 100)  # of model.keras; that of the classic recipe has 1.2


def measure(folder: Path, size: int, url: str) -> dict[str, float]:
    """Seconds to copy a new version with a model of so many megabytes to a store and to a folder, and to look again."""
    models = ModelDirectory(folder / "models")
    candidate = stand_in("run", folder / "runs")
    candidate["files"]["model.keras"].write_bytes(os.urandom(size * 1_000_000))
    candidate["digests"] = {name: sha256(path) for name, path in candidate["files"].items()}
    publish(models, **with_documents({**candidate, "replaces": None}))
    seconds = {}
    for name, target in (("store", url), ("folder", f"file://{folder / 'there'}")):
        for what in ("new", "again"):
            start = time.perf_counter()
            done = mirror(models.root, target)
            seconds[f"{name}, {what}"] = time.perf_counter() - start
            assert (done.uploaded > 0) == (what == "new")
    return seconds


def main(rounds: int = 3, path: Path | None = None) -> None:
    """Print the medians for each size."""
    machine_found = machine()
    found: dict[int, list[dict[str, float]]] = {size: [] for size in MEGABYTES}
    with tempfile.TemporaryDirectory() as folder, s3(Path(folder) / "log") as url:
        os.environ |= {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
        fsspec.filesystem("s3").mkdir("bucket")
        mirror(Path(folder) / "none", "s3://bucket/none")  # the first call imports and connects
        for number in range(rounds):
            for size in MEGABYTES:
                work = Path(folder) / f"{number}-{size}"
                found[size].append(measure(work, size, f"s3://bucket/{number}-{size}"))
    medians = {
        size: {name: statistics.median(each[name] for each in rounds_) for name in rounds_[0]}
        for size, rounds_ in found.items()
    }
    for size, seconds in medians.items():
        ratio = seconds["store, new"] / seconds["folder, new"]
        shown = "; ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
        print(f"{size} MB: {shown}; store / folder {ratio:.1f}x")
    if path:
        write_json(path, {"machine": machine_found, "rounds": rounds, "seconds": medians})


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(int(arguments[0]) if arguments else 3, Path(arguments[1]) if arguments[1:] else None)
