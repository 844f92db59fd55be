"""A network out of a checkpoint, for whoever wants to use it after training."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from graphcorrect.files.faults import reading
from segmentation import checkpoint
from segmentation.model import SegmentationModel
from segmentation.networks import SegmentationNetwork
from segmentation.recipe import Recipe, from_dict
from segmentation.state import new_refiner


class Trained(NamedTuple):
    """A network out of a checkpoint and what is needed to run it."""

    model: SegmentationModel
    recipe: Recipe
    class_names: list[str]
    layout: str
    crop: tuple[int, int]
    step: int


def open_checkpoint(path: Path, network: str, device: torch.device) -> Trained:
    """The teacher's or the student's network (`network`: "teacher", "model") of `METHOD/last.pt` or `METHOD/best.pt`.

    Raises:
        ValueError: it is no such file, it is damaged, or its weights are not finite; the message names it.
    """
    saved = checkpoint.load(path)  # on the CPU: that a device is missing is no fault of the file
    if not {"recipe", "class_names", "layout", "crop", "step", network} <= saved.keys():
        raise ValueError(f"expected METHOD/last.pt or METHOD/best.pt of a run, got {str(path)!r}, which is neither")
    with reading(path, "a checkpoint of this trainer"):
        recipe, names = from_dict(saved["recipe"], "its recipe"), [str(name) for name in saved["class_names"]]
        settings = recipe.network
        settings.weights = "none"  # all of them come out of the checkpoint
        model = SegmentationModel(SegmentationNetwork(len(names), settings), new_refiner(recipe, len(names)))
        model.load_state_dict(saved[network])
        spoiled = [key for key, value in model.state_dict().items() if not torch.isfinite(value).all()]
        if spoiled:
            raise ValueError(f"its run has diverged: NaN or Inf in {len(spoiled)} of its entries, {spoiled[0]} first")
        height, width = saved["crop"]
        trained = Trained(model.eval(), recipe, names, saved["layout"], (height, width), int(saved["step"]))
    model.to(device)
    return trained


class Logits(nn.Module):
    """The network of a checkpoint as `graphcorrect refine --model` takes one: images (1, 3, H, W) to logits."""

    def __init__(self, path: Path | str, network: str = "teacher") -> None:
        super().__init__()
        self.network = open_checkpoint(Path(path), network, torch.device("cpu")).model.network

    def forward(self, images: Tensor) -> Tensor:
        """(1, C, h, w), for images in [0, 1]."""
        logits: Tensor = self.network(images).logits
        return logits


def titles(paths: list[Path]) -> list[str]:
    """A short name for each checkpoint, no two alike: its method's folder, with more of its path where needed."""
    for parts in (lambda path: path.parts[-2:-1], lambda path: path.parts[-3:-1], lambda path: path.parts[-3:]):
        found = ["/".join(parts(path.resolve())) for path in paths]
        if len(set(found)) == len(found):
            return found
    return [str(path) for path in paths]
