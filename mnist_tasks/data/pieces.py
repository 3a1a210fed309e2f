"""Labelled images that are kept under the digest of their content, with all that was found out about them.

A piece is what came from one source or in one batch. Its arrays, the profile of its images and what comparing them with
others gave lie in one folder. A night reads only what is new or has changed: everything else is looked up by content.
What is looked up is made again if it is damaged, missing, of another release, or about other images.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TypeVar
from zipfile import BadZipFile

import numpy as np

from mnist_tasks.data.arrays import ArrayFile, write_array
from mnist_tasks.data.dataset import SPLITS, Float32, Split, folder_digest
from mnist_tasks.data.leakage import (
    NEAR_DISTANCE,
    TURNED_DISTANCE,
    TURNED_SAMPLE,
    distances_if_turned,
    distances_to,
)
from mnist_tasks.data.neighbours import Indices, Reference, WayUp, evenly_spread
from mnist_tasks.data.profile import Profile
from mnist_tasks.documents import Contradicted, Document, Measurements, Nearest
from mnist_tasks.system.errors import InputError, ModelError, is_transient
from mnist_tasks.system.files import write_atomically

log = logging.getLogger(__name__)

D = TypeVar("D", bound=Document)

PROFILE, MEASUREMENTS = "profile.npz", "measurements.json"


@cache
def code_digest() -> str:
    """A digest of this package's code: another release may read and measure differently."""
    total = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        total.update(path.name.encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


@dataclass
class Piece:
    """Labelled images in a folder, the profile of each split, and what was measured of them."""

    folder: Path
    content: str
    profiles: Mapping[Split, Profile]
    measurements: Measurements = field(default_factory=lambda: Measurements(code=code_digest()))
    measured: bool = False  # something that is not written yet

    @classmethod
    def read(cls, folder: Path) -> Piece:
        """Read arrays that have just been written to a folder, and make their profile."""
        splits = [split for split in SPLITS if (folder / f"y_{split}.npy").exists()]
        return cls(folder, folder_digest(folder), {split: Profile.of(folder, split) for split in splits})

    @classmethod
    def known(cls, folder: Path, content: str) -> Piece | None:
        """The piece with this content, if it lies in the folder, unchanged."""
        try:
            if not folder.is_dir() or folder_digest(folder) != content:
                return None
            splits = [split for split in SPLITS if (folder / f"y_{split}.npy").exists()]
            profiles = {split: _read_profile(folder, split) for split in splits}
        except InputError:
            return None
        found = {split: profile for split, profile in profiles.items() if profile}
        if found != profiles:
            piece = cls.read(folder)
            piece.write_profile()
            return piece
        return cls(folder, content, found, _read_measurements(folder / MEASUREMENTS))

    def moved(self, folder: Path) -> Piece:
        """The same piece after its arrays have been moved to another folder."""
        profiles = {split: profile.moved(folder) for split, profile in self.profiles.items()}
        return replace(self, folder=folder, profiles=profiles)

    def write_profile(self) -> None:
        """Write the images' profile and keys into the piece's folder. The keys order the images of a dataset."""
        for split, profile in self.profiles.items():
            path = self.folder / f"keys_{split}.npy"
            write_atomically(path, partial(write_array, shape=profile.keys.shape, chunks=[profile.keys]))
        arrays = {
            f"{split}_{name}": getattr(profile, name)
            for split, profile in self.profiles.items()
            for name in Profile.STORED
        }
        write_atomically(
            self.folder / PROFILE,
            lambda path: np.savez(path, code=np.array(code_digest()), **arrays),
        )

    def write_measurements(self) -> None:
        """Write what was measured since, if anything was."""
        if self.measured:
            self.measurements.write(self.folder / MEASUREMENTS)
            self.measured = False

    def nearest(self, split: Split, opposite: Sequence[Piece], *, source: bool) -> Nearest | None:
        """How close the images of a split come to those of the other split of these pieces; None if there are none.

        Args:
            split: ours.
            opposite: the pieces with the other images.
            source: whether they are the source's.
        """
        other: Split = "test" if split == "train" else "train"
        parts = [piece for piece in opposite if len(piece.profiles.get(other, ()))]
        if not parts:
            return None
        name = hashlib.sha256("".join(sorted(f"{piece.content} {other}\n" for piece in parts)).encode()).hexdigest()
        known = self.measurements.source if source else self.measurements.accepted
        found = known.get(split)
        if found and found.others == name:
            return found
        everything, *more = (piece.profiles[other] for piece in parts)
        for profile in more:
            everything += profile
        distances = distances_to(self.profiles[split], everything)
        found = _nearest(name, distances, NEAR_DISTANCE)
        self._remember("source" if source else "accepted", split, found)
        return found

    def turned(self, test: Piece) -> Nearest:
        """How close some of the training images come to the test images of a piece if they are turned or scaled.

        The positions are those in the sample, of `TURNED_SAMPLE` at most.
        """
        name = hashlib.sha256(f"{test.content} turned\n".encode()).hexdigest()
        found = self.measurements.turned.get("train")
        if not found or found.others != name:
            train = self.profiles["train"]
            images = train.files[0].rows(evenly_spread(len(train), TURNED_SAMPLE))
            distances = distances_if_turned(images, test.profiles["test"])
            found = _nearest(name, distances, TURNED_DISTANCE)
            self._remember("turned", "train", found)
        return found

    def contradicted(self, split: Split, content: str, reference: Callable[[], Reference]) -> Indices:
        """The positions of the images whose label the reference, which has images of that content, contradicts."""
        return np.array(self._contradicted(split, content, reference).positions, np.intp)

    def way_up(self, split: Split, content: str, reference: Callable[[], Reference]) -> WayUp:
        """Which way up the images agree best with that reference."""
        found = self._contradicted(split, content, reference)
        if found.way_up is None:
            found = found.model_copy(update={"way_up": asdict(self.profiles[split].way_up(reference()))})
            self._remember("contradicted", split, found)
        return WayUp(**found.way_up)  # type: ignore[arg-type]

    def _contradicted(self, split: Split, content: str, reference: Callable[[], Reference]) -> Contradicted:
        found = self.measurements.contradicted.get(split)
        if not found or found.reference != content:
            profile = self.profiles[split]
            positions = reference().contradicted(profile.features(), profile.labels)
            found = Contradicted(reference=content, positions=positions.tolist())
            self._remember("contradicted", split, found)
        return found

    def _remember(self, kind: str, split: Split, found: Nearest | Contradicted) -> None:
        known = {**getattr(self.measurements, kind), split: found}
        self.measurements = self.measurements.model_copy(update={kind: known})
        self.measured = True


def _nearest(others: str, distances: Float32, bound: float) -> Nearest:
    """What distances to the closest of the others say, with the bound below which they are near."""
    near = np.flatnonzero(distances < bound).tolist()
    return Nearest(others=others, closest=max(0.0, float(distances.min())), near=near)


def _read_profile(folder: Path, split: Split) -> Profile | None:
    """The stored profile of a split; None if there is none that can be used."""
    labels, images = (ArrayFile.open(folder / f"{axis}_{split}.npy") for axis in "yx")
    try:
        stored_keys = ArrayFile.open(folder / f"keys_{split}.npy").all()
        with np.load(folder / PROFILE, allow_pickle=False) as arrays:
            if str(arrays["code"]) != code_digest():
                return None
            stored = {name: arrays[f"{split}_{name}"] for name in Profile.STORED}
    except (InputError, OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        if is_transient(error):
            raise
        log.warning("the profile in %s is missing or damaged; its images are looked at again", folder)
        return None
    profile = Profile(labels.all(), files=(images,), **stored)
    # They order the images, so a flipped bit must not go unseen. The profile itself has checksums.
    if not np.array_equal(stored_keys, profile.keys) or not len(profile) == len(profile.keys) == len(images):
        log.warning("the profile in %s does not fit its images; it is made again", folder)
        return None
    return profile


def _read_measurements(path: Path) -> Measurements:
    """What was measured; nothing if there is nothing that can be used."""
    found = read_if_whole(Measurements, path, "they are made again")
    return found if found and found.code == code_digest() else Measurements(code=code_digest())


def read_if_whole(kind: type[D], path: Path, instead: str) -> D | None:
    """A document that can be made again; None if it is missing or damaged, with a warning that says what is done."""
    if not path.exists():
        return None
    try:
        return kind.read(path, instead)
    except ModelError as error:
        if is_transient(error):
            raise
        log.warning("%s", error)
        return None
