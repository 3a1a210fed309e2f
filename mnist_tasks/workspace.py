"""Where datasets, runs and models live: one folder, `MNIST_HOME`, shared by every worker."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from mnist_tasks.system.disk_space import RUN, VERSION, require_space
from mnist_tasks.system.errors import InputError
from mnist_tasks.system.filesystem import try_out

PROJECT = Path(__file__).resolve().parent.parent

# What Airflow allows in a run id, less a leading dot: no separator, so the name stays in its folder.
RUN_ID = re.compile(r"[A-Za-z0-9_~+-][A-Za-z0-9_.~:+-]{0,199}")


@dataclass(frozen=True)
class Workspace:
    """The folders below one root: `datasets/<digest>`, `runs/<run id>` and the model directory `models`."""

    root: Path

    @classmethod
    def from_environment(cls) -> Workspace:
        """The folder that `MNIST_HOME` names, by default `var` in the project's checkout.

        Raises:
            InputError: if `MNIST_HOME` is unset and the package does not lie in a checkout.
        """
        home = os.environ.get("MNIST_HOME")
        if home:
            return cls(Path(home).expanduser().resolve())
        if not (PROJECT / "pyproject.toml").is_file():
            raise InputError("MNIST_HOME is not set: set it to the folder for datasets, runs and models")
        return cls(PROJECT / "var")

    @property
    def datasets(self) -> Path:
        return self.root / "datasets"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def inbox(self, name: str | None) -> Path | str | None:
        """The folder that batches are dropped into: a path, or the URL of one in an object store.

        Args:
            name: a URL or a path, below the root if it is relative; `none` for no inbox; None for `inbox`, if there is
                one.
        """
        if name == "none":
            return None
        if name is None:
            usual = self.root / "inbox"
            return usual if usual.exists() else None
        return name if "://" in name else self.root / Path(name).expanduser()

    @property
    def sweeps(self) -> Path:
        return self.root / "sweeps"

    def sweep_folder(self, run_id: str) -> Path:
        """The folder of a sweep, whether it exists or not; raises as `run_folder`."""
        return self.sweeps / self.run_folder(run_id).name

    def run(self, run_id: str) -> Path:
        """The folder of a run's working files, made if needed; raises as `run_folder`."""
        folder = self.run_folder(run_id)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def run_folder(self, run_id: str) -> Path:
        """The folder of a run's working files, whether it exists or not.

        Raises:
            InputError: if the run id is not a plain name and could lead out of the folder.
        """
        if not RUN_ID.fullmatch(run_id):
            raise InputError(
                f"run id {run_id!r} cannot name a folder: use at most 200 letters, digits and _ . ~ : + -, "
                "not starting with a dot or a colon"
            )
        return self.runs / run_id

    def dataset(self, digest: str) -> Path:
        """The folder of a dataset.

        Raises:
            InputError: if `digest` is not a SHA-256 in hexadecimal.
        """
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise InputError(f"{digest!r} is not a dataset digest: 64 hexadecimal digits are expected")
        return self.datasets / digest

    def prepare(self) -> None:
        """Make the folders and try out everything that writing to them needs, before any work is done.

        Raises:
            InputError: naming the folder, what cannot be done there or how much space it lacks, and the way out.
        """
        for folder in (self.datasets, self.runs, self.models):
            try_out(folder, links=folder == self.models)
        require_space({self.runs: RUN, self.models: VERSION})
