"""The two views of an image. Weak: scale, crop, flip. Strong: the weak view, recolored, blurred, and cut together.

The strong view is made *from* the weak one without moving a pixel, so that what the teacher says of the weak view's
pixels can be laid over the student's strong view as it is. Mixing then moves image, pseudo-labels and confidence alike.

Everything random is drawn where the image is loaded, from a generator of that image's own, and travels with it as a row
of numbers (`draw_strong_view`). What runs on the device, in batch, draws nothing: a run can then be resumed, or spread
over workers and processes, and see the very same views.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

IGNORE_INDEX = 255
GREY = 127  # what a view pads images with
BLUR_RADIUS = 4  # at least: a kernel of 9

# What the row of numbers holds, one after the other.
DRAWN = (
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "grey",
    "sigma",
    "mixed",
    "top",
    "left",
    "height",
    "width",
    "seed",
)


class WeakView:
    """Random scale, crop (padded where the scaled image is smaller), and flip of one image and its labels.

    The window is cut out first and scaled then: of a large image most pixels are never touched.

    Args:
        size: (height, width) of the crop.
        scale: range of the factor; the image's aspect ratio is kept.
        flip: whether half of the views are mirrored.
        balanced: share of the views that are cut out about a pixel of a class, drawn evenly from those of the image: a
            rare class is then seen as often as a frequent one.

    Shapes:
        image (3, H, W) uint8, labels (H, W) uint8 -> image (3, h, w) uint8, labels (h, w) uint8 with 255 as padding,
        and (4,) float32: top, left, bottom and right of the view within the image, as
        :func:`graphcorrect.keys.whole_image` counts
    """

    def __init__(
        self, size: tuple[int, int], scale: tuple[float, float] = (0.5, 2.0), flip: bool = True, balanced: float = 0.0
    ):
        self.size, self.scale, self.flip, self.balanced = size, scale, flip, balanced

    def __call__(self, image: Tensor, labels: Tensor, rng: random.Random) -> tuple[Tensor, Tensor, Tensor]:
        factor = rng.uniform(*self.scale)
        window, scaled = [], []
        about = _drawn_pixel(labels, rng) if self.balanced > 0 and rng.random() < self.balanced else (None, None)
        for side, wanted, place in zip(image.shape[-2:], self.size, about, strict=True):
            taken = min(side, max(1, round(wanted / factor)))
            first, last = 0, side - taken
            if place is not None:  # windows that hold it
                first, last = max(first, place - taken + 1), min(last, place)
            window += [rng.randint(first, last), taken]
            scaled.append(min(wanted, max(1, round(taken * factor))))
        top, height, left, width = window
        # Padding goes on beyond the window
        bottom, right = (
            start + taken * wanted / used
            for start, taken, wanted, used in zip((top, left), (height, width), self.size, scaled, strict=True)
        )
        middle, unit = [side / 2 for side in image.shape[-2:]], max(image.shape[-2:]) / 2
        place = [(edge - middle[number % 2]) / unit for number, edge in enumerate((top, left, bottom, right))]
        image = functional.resize(functional.crop(image, top, left, height, width), scaled, antialias=True)
        labels = functional.crop(labels[None], top, left, height, width)
        labels = functional.resize(labels, scaled, InterpolationMode.NEAREST_EXACT)
        padding = [0, 0, self.size[1] - scaled[1], self.size[0] - scaled[0]]
        image = functional.pad(image, padding, fill=GREY)
        labels = functional.pad(labels, padding, fill=IGNORE_INDEX)
        if self.flip and rng.random() < 0.5:
            image, labels = functional.horizontal_flip(image), functional.horizontal_flip(labels)
            place = [place[0], place[3], place[2], place[1]]
        return image, labels[0], torch.tensor(place)


def _drawn_pixel(labels: Tensor, rng: random.Random) -> tuple[int | None, int | None]:
    """Row and column of a pixel of a class that is drawn evenly; None and None without a labeled pixel."""
    classes = [label for label in labels.unique().tolist() if label != IGNORE_INDEX]
    if not classes:
        return None, None
    rows, columns = (labels == rng.choice(classes)).nonzero(as_tuple=True)
    number = rng.randrange(len(rows))
    return int(rows[number]), int(columns[number])


def draw_strong_view(
    rng: random.Random,
    size: tuple[int, int],
    *,
    jitter: float = 0.8,
    grey: float = 0.2,
    blurred: float = 0.5,
    blur: float = 2.0,
    mixed: float = 0.5,
) -> Tensor:
    """What one strong view will be, as numbers in the order of `DRAWN`, float64.

    Args:
        rng: of this image alone.
        size: (height, width) of the view.
        jitter, grey, blurred, mixed: probabilities.
        blur: largest sigma, in pixels.
    """
    drawn = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0, "grey": 0.0, "sigma": 0.0, "mixed": 0.0}
    if rng.random() < jitter:
        drawn |= {name: rng.uniform(0.5, 1.5) for name in ("brightness", "contrast", "saturation")}
        drawn["hue"] = rng.uniform(-0.25, 0.25)
    drawn["grey"] = float(rng.random() < grey)
    if rng.random() < blurred:
        drawn["sigma"] = rng.uniform(0.1, blur)
    drawn["mixed"] = float(rng.random() < mixed)
    # A box of 2 to 40 % of the image, with sides in ratio 0.3 to 3.3.
    area, ratio = rng.uniform(0.02, 0.4) * size[0] * size[1], math.exp(rng.uniform(-1.2, 1.2))
    height, width = min(size[0], round(math.sqrt(area * ratio))), min(size[1], round(math.sqrt(area / ratio)))
    drawn |= {"top": rng.randint(0, size[0] - height), "left": rng.randint(0, size[1] - width)}
    drawn |= {"height": height, "width": width, "seed": rng.randrange(2**31)}
    return torch.tensor([drawn[name] for name in DRAWN], dtype=torch.float64)


def kept_channels(draws: Tensor, widths: Sequence[int], share: float = 0.5) -> list[Tensor]:
    """What the channels of feature maps are multiplied by when a share of them is dropped, (B, M) for each of `widths`.

    Each image's are of its own seed, that of `draws` (B, len(DRAWN)), and so the same however a batch is split up.
    """
    rows = []
    for seed in draws[:, DRAWN.index("seed")].tolist():
        numbers = torch.rand(sum(widths), generator=torch.Generator().manual_seed(int(seed)))
        rows.append((numbers >= share) / (1 - share))
    return list(torch.stack(rows).split(list(widths), 1))


def strong_view(images: Tensor, draws: Tensor, blur: float = 2.0) -> Tensor:
    """Colors and sharpness of a batch as drawn, (B, 3, h, w) in [0, 1] and (B, len(DRAWN)); no pixel moves.

    `blur` is the largest sigma that may have been drawn.
    """
    given = {name: draws[:, number].to(images.dtype) for number, name in enumerate(DRAWN)}
    images = (images * _each(given["brightness"])).clamp(0, 1)
    mean = _luma(images).mean((2, 3), keepdim=True)
    images = _blend(images, mean, given["contrast"])
    images = _blend(images, _luma(images), given["saturation"])
    images = (_hue_rotation(given["hue"]) @ images.flatten(2)).view_as(images).clamp(0, 1)
    images = torch.where(_each(given["grey"]) > 0, _luma(images), images)
    blurred = _blurred(images, given["sigma"], max(BLUR_RADIUS, math.ceil(2 * blur)))
    return torch.where(_each(given["sigma"]) > 0, blurred, images).clamp(0, 1)


def mix(images: Tensor, draws: Tensor, labels: Tensor, *maps: Tensor, kind: str = "cutmix") -> tuple[Tensor, ...]:
    """Paste a part of each image's partner into it; the same part of every map.

    Partners are neighbors in pairs, (0, 1), (2, 3), ...: pairs stay together where a batch is split up into even
    numbers of images, which `loading.share_of` sees to.

    Args:
        images: (B, 3, h, w).
        draws: (B, len(DRAWN)): which images are mixed, and with which box.
        labels: (B, h, w), the pseudo-labels.
        maps: what else belongs to the pixels, (B, h, w) or (B, C, h, w): probabilities, ...
        kind: "cutmix" pastes a box; "classmix" the pixels of half of the partner's classes; "none" nothing.
    Returns:
        (images, labels, *maps), new tensors.
    """
    batch = len(images)
    if kind == "none" or batch < 2:
        return (images, labels, *maps)
    partner = torch.tensor([number ^ 1 if number ^ 1 < batch else 0 for number in range(batch)], device=images.device)
    given = {name: draws[:, number, None, None] for number, name in enumerate(DRAWN)}
    if kind == "cutmix":
        rows = torch.arange(images.shape[-2], device=images.device)[:, None]
        columns = torch.arange(images.shape[-1], device=images.device)
        pasted = (rows >= given["top"]) & (rows < given["top"] + given["height"])
        pasted = pasted & (columns >= given["left"]) & (columns < given["left"] + given["width"])
    else:
        pasted = torch.stack(
            [
                torch.isin(theirs, _half_of_the_classes(theirs, int(seed)))
                for theirs, seed in zip(labels[partner], draws[:, DRAWN.index("seed")], strict=True)
            ]
        )
    pasted = pasted & (given["mixed"] > 0)

    def pasted_into(values: Tensor) -> Tensor:
        return torch.where(pasted if values.ndim == 3 else pasted[:, None], values[partner], values)

    return tuple(pasted_into(values) for values in (images, labels, *maps))


def _half_of_the_classes(labels: Tensor, seed: int) -> Tensor:
    classes = labels.unique()
    classes = classes[classes != IGNORE_INDEX]
    chosen = random.Random(seed).sample(range(len(classes)), -(-len(classes) // 2))
    return classes[torch.tensor(chosen, dtype=torch.int64, device=labels.device)]


def _each(values: Tensor) -> Tensor:
    """A number an image, (B,), to multiply images (B, 3, h, w) with."""
    return values[:, None, None, None]


def _luma(images: Tensor) -> Tensor:
    """Grey of RGB, (B, 1, h, w), by the weights of ITU-R 601."""
    return (images * images.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)


def _blend(images: Tensor, with_what: Tensor, share: Tensor) -> Tensor:
    return (with_what + (images - with_what) * _each(share)).clamp(0, 1)


def _hue_rotation(turn: Tensor) -> Tensor:
    """Matrices (B, 3, 3) that turn colors about the grey axis by so many full turns, luma kept.

    A rotation of the chroma plane of YIQ: a matrix product where HSV asks for a case distinction a pixel.
    """
    to_yiq = turn.new_tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    cosine, sine = torch.cos(2 * math.pi * turn), torch.sin(2 * math.pi * turn)
    rotation = torch.zeros(len(turn), 3, 3, dtype=turn.dtype, device=turn.device)
    rotation[:, 0, 0] = 1
    rotation[:, 1, 1], rotation[:, 1, 2], rotation[:, 2, 1], rotation[:, 2, 2] = cosine, -sine, sine, cosine
    return torch.linalg.inv(to_yiq) @ rotation @ to_yiq


def _blurred(images: Tensor, sigma: Tensor, radius: int = BLUR_RADIUS) -> Tensor:
    """Gaussian blur with a sigma an image, as two passes of a grouped convolution over the whole batch."""
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma.clamp_min(0.05)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)[:, None]  # (3B, 1, 2 radius + 1)
    maps = images.reshape(1, -1, *images.shape[-2:])
    maps = F.pad(maps, [radius] * 4, mode="replicate")
    maps = F.conv2d(maps, kernel[:, :, None, :], groups=len(kernel))
    return F.conv2d(maps, kernel[:, :, :, None], groups=len(kernel)).view_as(images)
