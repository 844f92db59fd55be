"""Batches of views, in an order and with random draws that depend on the seed and the position alone.

Position p of a stream is one image seen once: number p % n of the shuffle of epoch p // n, with a random generator
seeded by (seed, stream, p). So a stream can be entered anywhere, by any number of workers, and split over processes:
process r of w takes the r-th of w equal parts of each step's positions.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from graphcorrect.files.faults import UnreadableFile
from graphcorrect.files.images import read_image
from segmentation.datasets import Sample, read_labels
from segmentation.recipe import Recipe
from segmentation.transforms import WeakView, draw_strong_view


class Views(NamedTuple):
    """A batch as it comes from the loader.

    Attributes:
        images: (B, 3, h, w) uint8, weak views.
        labels: (B, h, w) uint8: true labels, 255 where there is none; of unlabeled images 0, and 255 where padded.
        draws: (B, 2, K) float64, what `strong_view` and `mix` are to do for each of two strong views.
        places: (B, 4) float32, where in its image each view lies, see :class:`WeakView`.
    """

    images: Tensor
    labels: Tensor
    draws: Tensor
    places: Tensor


class PositionSampler(Sampler[tuple[int, int]]):
    """(position, image) of this process for steps `first` to `last`, without end of epoch and without short batches.

    Args:
        length: number of images.
        batch: images of a step, over all processes.
        first, last: steps, counted in batches.
        seed: of the shuffles.
        rank, ranks: this process and how many there are.
    """

    def __init__(self, length: int, batch: int, first: int, last: int, *, seed: int, rank: int = 0, ranks: int = 1):
        self.length, self.batch, self.first, self.last = length, batch, first, last
        self.seed, self.rank, self.ranks = seed, rank, ranks

    def __len__(self) -> int:
        return (self.last - self.first) * self.batch // self.ranks

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, order = -1, []
        share = self.batch // self.ranks
        for step in range(self.first, self.last):
            begin = step * self.batch + self.rank * share
            for position in range(begin, begin + share):
                if position // self.length != epoch:
                    epoch = position // self.length
                    order = list(range(self.length))
                    random.Random(f"{self.seed}/shuffle/{epoch}").shuffle(order)
                yield position, order[position % self.length]


class ViewsOf(Dataset):
    """Samples by (position, image). Those of `unlabeled` have a stream of their own, and masks are left on the disk
    unless they `has_labels`.
    """

    def __init__(
        self,
        samples: list[Sample],
        recipe: Recipe,
        crop: tuple[int, int],
        *,
        flip: bool,
        unlabeled: bool,
        has_labels: bool | None = None,
    ):
        self.samples, self.recipe, self.crop, self.unlabeled = samples, recipe, crop, unlabeled
        self.has_labels = not unlabeled if has_labels is None else has_labels
        views = recipe.views
        balanced = 0.0 if unlabeled else views.balanced
        self.view = WeakView(crop, views.scale, flip=views.flip and flip, balanced=balanced)

    def __getitem__(self, key: tuple[int, int]) -> Views:
        position, index = key
        try:
            return self.views_of(position, self.samples[index])
        except UnreadableFile as error:
            raise UnreadableFile(f"could not read a file that was whole when the run began: {error}") from error

    def views_of(self, position: int, sample: Sample) -> Views:
        """A sample as it is seen at a position."""
        rng = random.Random(f"{self.recipe.running.seed}/{'unlabeled' if self.unlabeled else 'labeled'}/{position}")
        image = read_image(sample.image, self.recipe.data.resize)
        if not self.has_labels:
            labels = torch.zeros(image.shape[-2:], dtype=torch.uint8)
        else:
            labels = read_labels(sample, size=image.shape[-2:])
        image, labels, place = self.view(image, labels, rng)
        views = self.recipe.views
        odds = {"jitter": views.jitter, "grey": views.grey, "blurred": views.blurred, "blur": views.blur}
        second = random.Random(f"{self.recipe.running.seed}/second/{position}")
        draws = [draw_strong_view(each, self.crop, mixed=views.mixed, **odds) for each in (rng, second)]
        return Views(image, labels, torch.stack(draws), place)


def share_of(recipe: Recipe, ranks: int, *, unlabeled: bool) -> int:
    """Images of one part of a step on one of so many processes.

    Raises:
        ValueError: a step's images are not shared evenly, or one of unlabeled images would be without its partner.
    """
    schedule, mix = recipe.schedule, recipe.views.mix
    name = "unlabeled_batch" if unlabeled else "labeled_batch"
    batch, shares = getattr(schedule, name), schedule.accumulate * ranks
    pairs = unlabeled and mix != "none" and shares > 1  # partners are neighbors in a share
    if batch % (2 * shares if pairs else shares):
        raise ValueError(
            f"expected `schedule.{name}` to be a multiple of {schedule.accumulate} parts x {ranks} processes"
            + (f" x 2 images, as `views.mix` {mix} pairs them" if pairs else "")
            + f", got {batch}"
        )
    return batch // shares


def batches(
    samples: list[Sample],
    recipe: Recipe,
    crop: tuple[int, int],
    first: int,
    last: int,
    *,
    flip: bool,
    unlabeled: bool,
    has_labels: bool | None = None,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[Views]:
    """This process's batches for steps `first` to `last`, in parts where a step is accumulated."""
    running, parts, share = recipe.running, recipe.schedule.accumulate, share_of(recipe, ranks, unlabeled=unlabeled)
    sampler = PositionSampler(
        len(samples), share * ranks, first * parts, last * parts, seed=running.seed, rank=rank, ranks=ranks
    )
    return iter(
        DataLoader(
            ViewsOf(samples, recipe, crop, flip=flip, unlabeled=unlabeled, has_labels=has_labels),
            share,
            sampler=sampler,
            num_workers=running.workers,
            pin_memory=running.device.startswith("cuda"),
            generator=torch.Generator(),  # so that starting workers draws nothing from the run's own numbers
        )
    )
