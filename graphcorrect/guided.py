"""Soft labels back to full resolution, along the edges that the image shows."""

import torch
import torch.nn.functional as F
from torch import Tensor

from graphcorrect import _checks
from graphcorrect.nodes import resize_maps
from graphcorrect.ops.values import full_precision, reading_is_free, widen

STEPS, RADIUS, COLOR_SCALE, DISTANCE_SCALE, OWN_SHARE = 2, 2, 0.07, 3.0, 0.2  # of images in [0, 1]


def guided_upsample(
    soft_labels: Tensor,
    images: Tensor,
    *,
    mask: Tensor | None = None,
    steps: int = STEPS,
    radius: int = RADIUS,
    color_scale: float = COLOR_SCALE,
    distance_scale: float = DISTANCE_SCALE,
    own_share: float = OWN_SHARE,
    validate_args: bool = False,
) -> Tensor:
    r"""Upsamples class probabilities to the size of their images and smooths them between pixels of one color.

    A graph once more, of the pixels of one image, each joined to the (2 radius + 1)² - 1 around it:

    .. math:: w_{ij} \propto \exp\left(-\frac{|c_i - c_j|^2}{2 s_c^2} - \frac{|x_i - x_j|^2}{2 s_x^2}\right), \quad
        p_i \leftarrow o\, p_i + (1 - o) \sum_j w_{ij}\, p_j

    after bilinear upsampling, `steps` times, with colors c and positions x; rows of w sum to one. Beyond the paper,
    which interpolates: a network answers at a quarter of the resolution or less, and where an edge runs within such a
    cell only the image knows. The weights are those of the bilateral filter (Tomasi & Manduchi, 1998), guided by
    another image as in joint bilateral upsampling (Kopf et al., 2007).

    Args:
        soft_labels: (B, C, h, w) floating point, on the simplex; gradients pass.
        images: (B, 3, H, W) floating point in [0, 1] (or any number of channels), H >= h and W >= w.
        mask: (B, H, W) bool, True where a pixel takes part; the others are interpolated alone, and reach nobody.
        steps: how often to smooth; 0 is bilinear upsampling.
        radius: of the window, in pixels; at least 1.
        color_scale: s_c, in units of `images`.
        distance_scale: s_x, in pixels.
        own_share: o, in [0, 1], what a pixel keeps of its own at each step.
        validate_args: True refuses `soft_labels` that are no probabilities and, with the default `color_scale`,
            `images` that are not in [0, 1] (normalized, or 0 to 255), also where that waits for a GPU; on a CPU they
            are refused anyway.

    Returns:
        (B, C, H, W) on the simplex, in the dtype of `soft_labels`.

    Raises:
        ValueError: shapes, devices or ranges do not fit.
        TypeError: not floating point.

    Cost: O(steps (2 radius + 1)² B C H W) time; memory O(B H W ((2 radius + 1)² + C)).

    Example:
        >>> soft_labels, images = torch.rand(2, 5, 12, 20).softmax(1), torch.rand(2, 3, 48, 80)
        >>> guided_upsample(soft_labels, images).argmax(1).shape
        torch.Size([2, 48, 80])
    """
    _checks.floating("soft_labels", soft_labels)
    _checks.images("images", images)
    _checks.ndim("soft_labels", soft_labels, (4,), "(B, C, h, w)")
    _checks.ndim("images", images, (4,), "(B, 3, H, W)")
    _checks.channels_first("images", images)
    _checks.size("images", images, 0, soft_labels.shape[0], "images")
    _checks.same_device("images", images, "`soft_labels`", soft_labels)
    _checks.integer_at_least("steps", steps, 0)
    _checks.integer_at_least("radius", radius, 1)
    _checks.in_interval("color_scale", color_scale, 0.0, float("inf"), open_low=True, open_high=True)
    _checks.in_interval("distance_scale", distance_scale, 0.0, float("inf"), open_low=True, open_high=True)
    _checks.in_interval("own_share", own_share, 0.0, 1.0)
    _checks.not_transposed("soft_labels", soft_labels, "`images`", images)
    size = (images.shape[-2], images.shape[-1])
    _checks.mask("mask", mask, (len(images), *size), "(an entry for each pixel of `images`)", "`images`", images)
    if mask is not None:
        images = torch.where(mask[:, None], images, 0.0)  # not even 0 * NaN may enter
    if soft_labels.shape[-2] > size[0] or soft_labels.shape[-1] > size[1]:
        raise ValueError(
            f"expected `images` at least as large as `soft_labels`, {tuple(soft_labels.shape[-2:])}, got {size}"
        )
    if validate_args or reading_is_free(soft_labels):
        _checks.on_simplex("soft_labels", soft_labels, 1)
    if color_scale == COLOR_SCALE and (validate_args or reading_is_free(images)):
        _checks.unit_images("images", images)
    with full_precision(soft_labels):
        values = F.interpolate(widen(soft_labels), size=size, mode="bilinear")
        if mask is not None:
            values = torch.where(mask[:, None], resize_maps(widen(soft_labels), size, mask), values)
        if steps:
            weights = window_weights(widen(images).to(values.dtype), radius, color_scale, distance_scale)
            if mask is None:
                values = smoothed(values, weights, steps, radius, own_share)
            else:  # means of those that take part: their sum by their number, which is smoothed as they are
                part = mask[:, None]
                known = torch.cat([torch.where(part, values, 0.0), part.to(values.dtype)], 1)
                found = smoothed(known, weights, steps, radius, own_share)
                total, number = found[:, :-1], found[:, -1:]
                is_met = part & (number > 0)  # by itself or by another
                values = torch.where(is_met, total / number.clamp_min(torch.finfo(number.dtype).tiny), values)
        return values.to(soft_labels.dtype)


def _offsets(radius: int) -> list[tuple[int, int]]:
    """The window without its middle, (dy, dx)."""
    side = range(-radius, radius + 1)
    return [(dy, dx) for dy in side for dx in side if (dy, dx) != (0, 0)]


def _shifted(maps: Tensor, radius: int) -> list[Tensor]:
    """Views of maps (B, F, H, W), one for each offset: what lies there of every pixel; edges are repeated."""
    height, width = maps.shape[-2:]
    padded = F.pad(maps, (radius,) * 4, mode="replicate")
    return [
        padded[..., radius + dy : radius + dy + height, radius + dx : radius + dx + width]
        for dy, dx in _offsets(radius)
    ]


def window_weights(images: Tensor, radius: int, color_scale: float, distance_scale: float) -> Tensor:
    """Weights w of each pixel and offset, (B, O, H, W), summing to one over the offsets."""
    exponents = torch.stack(
        [
            -(neighbor - images).square().sum(1) / (2 * color_scale**2) - (dy**2 + dx**2) / (2 * distance_scale**2)
            for neighbor, (dy, dx) in zip(_shifted(images, radius), _offsets(radius), strict=True)
        ],
        dim=1,
    )
    # A softmax, so that a pixel unlike all around it still has weights that sum to one
    return exponents.softmax(1)


def smoothed(values: Tensor, weights: Tensor, steps: int, radius: int, own_share: float) -> Tensor:
    """Values (B, C, H, W) of which each keeps `own_share` and takes the rest from its window, `steps` times."""
    for _ in range(steps):
        values = own_share * values + (1 - own_share) * window_mean(values, weights, radius)
    return values


def window_mean(values: Tensor, weights: Tensor, radius: int) -> Tensor:
    """Weighted mean over the window, without a copy of `values` (B, C, H, W) for each offset."""
    total = torch.zeros_like(values)
    for neighbor, weight in zip(_shifted(values, radius), weights.unbind(1), strict=True):
        total = torch.addcmul(total, neighbor, weight[:, None])
    return total


def distance_mean(values: Tensor, radius: int, distance_scale: float) -> Tensor:
    """The same with weights of distances alone, which no image tells apart: one convolution."""
    exponents = [-(dy**2 + dx**2) / (2 * distance_scale**2) for dy, dx in _offsets(radius)]
    before, after = values.new_tensor(exponents).softmax(0).chunk(2)
    side, channels = 2 * radius + 1, values.shape[1]
    kernel = torch.cat([before, before.new_zeros(1), after]).view(1, 1, side, side)
    padded = F.pad(values, (radius,) * 4, mode="replicate")
    return F.conv2d(padded, kernel.expand(channels, 1, side, side), groups=channels)
