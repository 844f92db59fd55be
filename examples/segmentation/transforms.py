"""The two views of an image. Weak: scale, crop, flip. Strong: the weak view, recolored, blurred, and cut together.

The strong view is made *from* the weak one without moving a pixel, so that what the teacher says of the weak view's
pixels can be laid over the student's strong view as it is. CutMix then moves image, pseudo-labels and confidence alike.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

IGNORE_INDEX = 255
GREY = 127  # what a view pads images with


class WeakView(nn.Module):
    """Random scale, crop (padded where the scaled image is smaller), and flip of one image and its labels.

    Args:
        size: (height, width) of the crop.
        scale: range of the factor; the image's aspect ratio is kept.
        flip: whether half of the views are mirrored.

    Shapes:
        image (3, H, W) uint8, labels (H, W) uint8 -> image (3, h, w) uint8, labels (h, w) int64 with 255 as padding
    """

    def __init__(self, size: tuple[int, int], scale: tuple[float, float] = (0.5, 2.0), flip: bool = True):
        super().__init__()
        self.size, self.scale, self.flip = size, scale, flip

    def forward(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        factor = self.scale[0] + (self.scale[1] - self.scale[0]) * float(torch.rand(()))
        size = [max(1, round(side * factor)) for side in image.shape[-2:]]
        image = functional.resize(image, size, antialias=True)
        labels = functional.resize(labels[None], size, InterpolationMode.NEAREST_EXACT)

        height, width = self.size
        below, right = max(0, height - size[0]), max(0, width - size[1])
        image = functional.pad(image, [0, 0, right, below], fill=GREY)
        labels = functional.pad(labels, [0, 0, right, below], fill=IGNORE_INDEX)
        top = int(torch.randint(image.shape[-2] - height + 1, ()))
        left = int(torch.randint(image.shape[-1] - width + 1, ()))
        image = functional.crop(image, top, left, height, width)
        labels = functional.crop(labels, top, left, height, width)
        if self.flip and torch.rand(()) < 0.5:
            image, labels = functional.horizontal_flip(image), functional.horizontal_flip(labels)
        return image, labels[0].long()


class StrongView(nn.Module):
    """Color jitter (0.8), grey (0.2) and blur (0.5), drawn anew for each image of a batch; no pixel moves.

    Shapes: (B, 3, h, w) in [0, 1] -> the same
    """

    def __init__(self, blur_sigma: tuple[float, float] = (0.1, 2.0)):
        super().__init__()
        self.change = v2.Compose(
            [
                v2.RandomApply([v2.ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.25)], p=0.8),
                v2.RandomGrayscale(p=0.2),
                v2.RandomApply([v2.GaussianBlur(kernel_size=9, sigma=blur_sigma)], p=0.5),
            ]
        )

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([self.change(image) for image in images])


def cutmix(images: Tensor, *maps: Tensor, probability: float = 0.5) -> tuple[Tensor, ...]:
    """Paste a random box of each image's neighbor in the batch into it; the same box of every map.

    Args:
        images: (B, 3, h, w).
        maps: what belongs to the pixels: pseudo-labels (B, h, w), confidence (B, h, w), ...
        probability: share of the images that are cut.
    Returns:
        (images, *maps), new tensors. The box covers 2 to 40 % of the image, with sides in ratio 0.3 to 3.3.
    """
    batch, height, width = images.shape[0], *images.shape[-2:]
    inside = torch.zeros(batch, height, width, dtype=torch.bool)
    for index in (torch.rand(batch) < probability).nonzero().flatten().tolist():
        area = (0.02 + 0.38 * float(torch.rand(()))) * height * width
        ratio = float(torch.exp((torch.rand(()) * 2 - 1) * 1.2))
        h, w = min(height, round((area * ratio) ** 0.5)), min(width, round((area / ratio) ** 0.5))
        top, left = int(torch.randint(height - h + 1, ())), int(torch.randint(width - w + 1, ()))
        inside[index, top : top + h, left : left + w] = True
    inside = inside.to(images.device)
    mixed = [torch.where(inside[:, None], images.roll(1, 0), images)]
    mixed += [torch.where(inside, values.roll(1, 0), values) for values in maps]
    return tuple(mixed)
