"""The embedded data set: scenes of real handwritten digits on cluttered grounds.

scikit-learn ships 1797 digits of 8x8 pixels written by people. Two to four of them are enlarged, turned, colored, cut
out as stickers and laid on a ground of gradients and textures among strokes and *fragments*: stickers of digits with
their quarters shuffled, which have a digit's ink and no digit's shape. Eleven classes: background and 0 to 9; the
object is the sticker, whose outline follows the digit's.

Nothing is downloaded, a scene costs about ten milliseconds, and the task is small but not a toy: a network must tell
ten shapes apart, in context, from few labels. The digits of the validation scenes come from sheets no training scene
uses (the later writers of the collection), so a network cannot have seen them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from sklearn.datasets import load_digits
from torch import Tensor

Array = NDArray[Any]
CLASS_NAMES = ("background", *(f"digit {digit}" for digit in range(10)))
SCENE_SIZE = 96
TRAIN_SHEETS = 1300  # of 1797; in the order of the collection, so that most writers fall on one side
DIGIT_SIZES = (42, 58)  # height in pixels, two empty rows of ten included: strokes are then 5 to 8 pixels wide
RIM = 3  # pixels of sticker around the ink
BORDER_LABEL = 255


def scenes(count: int, split: str, seed: int = 0, size: int = SCENE_SIZE) -> tuple[Tensor, Tensor]:
    """The first scenes of a split, "train" or "val": images (N, 3, H, W) in [0, 1], labels (N, H, W) int64."""
    pairs = list(itertools.islice(drawn(split, seed, size), count))
    images = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image, _ in pairs])
    return images.float() / 255, torch.stack([torch.from_numpy(labels).long() for _, labels in pairs])


def drawn(split: str, seed: int, size: int) -> Iterator[tuple[Image.Image, Array]]:
    """Scenes of a split without end, the same for a seed: RGB images and labels (size, size) uint8."""
    digits = load_digits()
    sheets = slice(TRAIN_SHEETS, None) if split == "val" else slice(None, TRAIN_SHEETS)
    rng = np.random.default_rng([seed, split == "val"])
    drawer = _without_repeats(digits.images[sheets] / 16, digits.target[sheets], rng)
    while True:
        yield draw_scene(drawer, rng, size)


def draw_scene(drawer: Iterator[tuple[Array, int]], rng: np.random.Generator, size: int) -> tuple[Image.Image, Array]:
    """One scene: an RGB image and its labels, (size, size) uint8 with 255 along the outline of every digit."""
    canvas = _ground(rng, size)
    for _ in range(rng.integers(2, 5)):
        _draw_stroke(canvas, rng)
    pixels = np.asarray(canvas, dtype=np.float32)
    if rng.random() < 0.5:
        ink = _render(_shuffle_quarters(next(drawer)[0], rng), rng)
        _paste(pixels, ink, _sticker(ink), rng.integers(0, size - np.array(ink.shape), endpoint=True), rng)

    labels = np.zeros((size, size), dtype=np.uint8)
    wanted = rng.integers(2, 5)
    for _ in range(24):  # a fourth digit does not always fit; then the scene has three
        if wanted == 0:
            break
        digit, target = next(drawer)
        ink = _render(digit, rng)
        corner = rng.integers(0, size - np.array(ink.shape), endpoint=True)
        window = np.s_[corner[0] : corner[0] + ink.shape[0], corner[1] : corner[1] + ink.shape[1]]
        sticker = _sticker(ink)
        if labels[window][sticker].any():  # stickers may interlock, they may not overlap
            continue
        _paste(pixels, ink, sticker, corner, rng)
        labels[window][sticker] = BORDER_LABEL
        labels[window][_grow(sticker, -1)] = target + 1
        wanted -= 1

    pixels += rng.normal(0, rng.uniform(3, 14), pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), labels


def _without_repeats(images: Array, targets: Array, rng: np.random.Generator) -> Iterator[tuple[Array, int]]:
    """Digits (8, 8) in [0, 1] with their targets, in random order; begins again only when all have been used."""
    while True:
        for index in rng.permutation(len(images)):
            yield images[index], int(targets[index])


def _render(digit: Array, rng: np.random.Generator) -> Array:
    """An 8x8 digit, enlarged (bicubic), turned by up to 15 degrees: coverage (h, w) in [0, 1] with a margin."""
    height = int(rng.integers(*DIGIT_SIZES, endpoint=True))
    width = int(height * rng.uniform(0.8, 1.05))
    image = Image.fromarray(np.pad(digit, 1).astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    image = image.rotate(rng.uniform(-15, 15), Image.Resampling.BICUBIC, expand=True)
    coverage = ((np.asarray(image) - 0.3) / 0.3).clip(0, 1)  # pencil grey to a stroke with a soft edge
    rows, columns = np.flatnonzero(coverage.max(1) > 0.1), np.flatnonzero(coverage.max(0) > 0.1)
    return np.pad(coverage[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], RIM + 3)


def _sticker(ink: Array) -> Array:
    """The shape of the sticker under ink (h, w): the ink, `RIM` pixels wider, small gaps closed."""
    return _grow(_grow(ink > 0.5, RIM + 2), -2)


def _paste(pixels: Array, ink: Array, sticker: Array, corner: Array, rng: np.random.Generator) -> None:
    """Lay a light sticker with dark ink, both (h, w), and a little shading on pixels (H, W, 3), in place."""
    view = pixels[corner[0] : corner[0] + ink.shape[0], corner[1] : corner[1] + ink.shape[1]]
    paper, color = rng.uniform(150, 250, 3), rng.uniform(0, 100, 3)
    slope = np.linspace(-1, 1, ink.shape[0])[:, None, None] * rng.uniform(-25, 25)  # shading from top to bottom
    view[sticker] = (paper + slope + np.zeros_like(view))[sticker]
    alpha = (ink * rng.uniform(0.75, 1.0))[..., None]
    view[:] = (1 - alpha) * view + alpha * color


def _shuffle_quarters(digit: Array, rng: np.random.Generator) -> Array:
    """A fragment: the four quarters of a digit, dealt anew and each turned, so that shape tells and ink does not."""
    quarters = digit.reshape(2, 4, 2, 4).swapaxes(1, 2).reshape(4, 4, 4)
    first, second, third, fourth = (np.rot90(quarters[index], int(rng.integers(1, 4))) for index in rng.permutation(4))
    return np.block([[first, second], [third, fourth]])


def _ground(rng: np.random.Generator, size: int) -> Image.Image:
    """A ground: two colors joined by a gradient, plus a smooth texture or stripes."""
    first, second = rng.uniform(20, 235, (2, 3))
    rows, columns = np.mgrid[0:size, 0:size] / size
    angle = rng.uniform(0, 2 * math.pi)
    along = np.cos(angle) * rows + np.sin(angle) * columns
    share = ((along - along.min()) / np.ptp(along))[..., None]
    pixels = (1 - share) * first + share * second
    cells = int(rng.integers(4, 17))
    noise = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
    texture = np.asarray(noise.resize((size, size), Image.Resampling.BICUBIC))
    if rng.random() < 0.4:
        texture = texture * 0.3 + np.sin(2 * math.pi * along * rng.uniform(3, 12))
    pixels = pixels + texture[..., None] * rng.uniform(-30, 30, 3)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _draw_stroke(canvas: Image.Image, rng: np.random.Generator) -> None:
    """A line or an arc as broad as a digit's own stroke, so that ink alone does not make a digit."""
    size = canvas.width
    draw = ImageDraw.Draw(canvas)
    color, width = tuple(int(value) for value in rng.uniform(0, 255, 3)), int(rng.integers(3, 8))
    if rng.random() < 0.5:
        draw.line([tuple(point) for point in rng.uniform(0, size, (2, 2))], fill=color, width=width)
    else:
        left, top = rng.uniform(-0.2 * size, 0.8 * size, 2)
        box = (left, top, left + rng.uniform(16, 60), top + rng.uniform(16, 60))
        start = rng.uniform(0, 360)
        draw.arc(box, start, start + rng.uniform(60, 150), fill=color, width=width)


def _grow(shape: Array, pixels: int = 1) -> Array:
    """A bool shape (h, w) with its outline moved outwards by so many pixels, or inwards where negative."""
    extreme = ndimage.maximum_filter if pixels > 0 else ndimage.minimum_filter
    return np.asarray(extreme(shape, size=2 * abs(pixels) + 1, mode="nearest"))
