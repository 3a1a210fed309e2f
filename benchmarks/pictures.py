"""How well the champion reads pictures as people take them: rendered from fonts and from MNIST's own handwriting.

python -m benchmarks.pictures [pictures of each kind] [seed] [folder of fonts, else /usr/share/fonts]; after make run

Each row has one kind of picture: the share that is answered rightly, whether sure or not; the share that is called
unsure; of the wrong answers, those that claim more than 0.9 and are not called unsure.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image

from benchmarks.machine import machine
from benchmarks.rendering import KINDS, Mask, font_mask, picture
from mnist_tasks.cli.main import UNSURE_BELOW
from mnist_tasks.cli.predict import answers
from mnist_tasks.data.dataset import UInt8
from mnist_tasks.data.image_files import Prepared, prepare_picture
from mnist_tasks.data.sources import read_source
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.version import Version
from mnist_tasks.system.errors import InputError
from mnist_tasks.workspace import Workspace

CLAIM = 0.9
Draw = Callable[[int, np.random.Generator], tuple[int, Mask]]
# Fonts like handwriting, by Debian's packages. What is missing is said and left out.
FONTS = {
    "fonts-comic-neue": "ComicNeue-Regular.otf",
    "fonts-dkg-handwriting": "dkg.ttf",
    "fonts-humor-sans": "Humor-Sans.ttf",
    "fonts-breip": "Breip.ttf",
    "fonts-bwht": "BecauseWeBuild-Regular.otf",
    "fonts-kiloji": "kiloji.ttf",
    "fonts-klee": "KleeOne-Regular.ttf",
    "fonts-dancingscript": "DancingScript-Regular.otf",
    "fonts-rufscript": "Rufscript010.ttf",
}
# On which nothing was tuned.
OTHER_FONTS = {
    "fonts-tomsontalks": "TomsonTalks.ttf",
    "fonts-summersby": "summersby.ttf",
    "fonts-havana": "Havana-Regular.otf",
    "fonts-leckerli-one": "LeckerliOne-Regular.ttf",
    "fonts-kaushanscript": "KaushanScript-Regular.otf",
    "fonts-sil-andika": "Andika-Italic.ttf",
    "fonts-isabella": "Isabella.ttf",
    "fonts-dustin": "dustismo_italic.ttf",
}
SHIPPED = ("DejaVuSans.ttf", "DejaVuSans-Oblique.ttf", "DejaVuSerif.ttf", "STIXGeneralItalic.ttf", "cmss10.ttf")


def found(fonts: dict[str, str], root: Path) -> list[Path]:
    """The fonts that are there; the packages of the others are printed."""
    paths = {package: next(iter(sorted(root.rglob(name))), None) for package, name in fonts.items()}
    missing = [package for package, path in paths.items() if not path]
    if missing:
        print(f"missing: {', '.join(missing)}")
    return [path for path in paths.values() if path]


def of_fonts(fonts: list[Path]) -> Draw | None:
    """A function that draws a digit, each as often as the others, from one of the fonts; None without a font."""
    if not fonts:
        return None
    return lambda index, rng: (index % 10, font_mask(index % 10, fonts[rng.integers(len(fonts))]))


def of_handwriting(images: UInt8, labels: UInt8) -> Draw:
    """A function that draws one of MNIST's test digits, enlarged with smooth edges."""

    def draw(_: int, rng: np.random.Generator) -> tuple[int, Mask]:
        chosen = int(rng.integers(len(labels)))
        digit = Image.fromarray(images[chosen])
        digit = digit.crop(digit.getbbox())

        def mask(height: int) -> Image.Image:
            scale = height / max(digit.size)
            size = [max(1, round(side * scale)) for side in digit.size]
            smooth = np.asarray(digit.resize(size, Image.Resampling.BICUBIC), np.float32)
            sharp = Image.fromarray(np.clip((smooth - 128) * 4 + 128, 0, 255).astype(np.uint8))
            return sharp.crop(sharp.getbbox())

        return int(labels[chosen]), mask

    return draw


def measure(name: str, draw: Draw, version: Version, count: int, seed: int) -> None:
    prepared: list[Prepared] = []
    labels, kinds, refused = [], [], 0
    for number, kind in enumerate(KINDS):
        for index in range(count):
            rng = np.random.default_rng([seed, number, index])
            label, mask = draw(index, rng)
            try:
                prepared.append(prepare_picture(picture(mask, kind, rng)))
            except InputError:
                prepared.append(Prepared(np.zeros((28, 28), np.uint8), others=1))  # wrong, and said to be unsure
                refused += 1
            labels.append(label)
            kinds.append(kind)
    predictions = [*answers(version, prepared, UNSURE_BELOW)]
    right = np.array([p.digit for p in predictions]) == labels
    unsure = np.array([p.status == "unsure" for p in predictions])
    claims = np.array([max(p.probabilities) for p in predictions]) > CLAIM
    print(f"\n{name}: {len(labels)} pictures, seed {seed}, {refused} refused\n")
    print("| kind | right | unsure | wrong | wrong, above 0.9 | wrong, above 0.9 and not unsure |")
    print("|---|---|---|---|---|---|")
    for kind in (*KINDS, "all"):
        chosen = np.array([kind in (k, "all") for k in kinds])
        wrong = chosen & ~right
        print(
            f"| {kind} | {right[chosen].mean():.1%} | {unsure[chosen].mean():.1%} | {wrong.sum()} | "
            f"{(wrong & claims).sum()} | {(wrong & claims & ~unsure).sum()} |"
        )


def main(count: int, seed: int, root: Path) -> None:
    machine()
    directory = ModelDirectory(Workspace.from_environment().models)
    version = directory.version("champion")
    print(f"version {version.number}: accuracy {version.evaluation().candidate.accuracy:.4f}")
    mnist = read_source("builtin")
    sets = {
        "handwriting-like fonts": of_fonts(found(FONTS, root)),
        "other fonts": of_fonts(found(OTHER_FONTS, root)),
        "fonts of matplotlib": of_fonts([Path(mpl.get_data_path()) / "fonts/ttf" / name for name in SHIPPED]),
        "MNIST's test digits": of_handwriting(mnist.x_test, mnist.y_test),
    }
    for name, draw in sets.items():
        if draw:
            measure(name, draw, version, count, seed)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(
        int(arguments[0]) if arguments else 100,
        int(arguments[1]) if len(arguments) > 1 else 0,
        Path(arguments[2] if len(arguments) > 2 else "/usr/share/fonts"),
    )
