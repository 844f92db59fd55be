"""A trained student as it would be used: plain, corrected, looked at in several sizes, or both, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segmentation import evaluation
from segmentation.networks import NetworkOutput, overhang

if TYPE_CHECKING:
    from segmentation.model import SegmentationModel
    from segmentation.running import Run

SCALES = (0.75, 1.0, 1.25)  # of test-time augmentation, each mirrored too where training mirrors images
PLAIN, CORRECTED, AUGMENTED, ALL = "plain", "corrected", "augmented", "augmented+corrected"


def measure(model: SegmentationModel, corrector: evaluation.Corrector, run: Run) -> dict[str, dict[str, Any]]:
    """Scores on the test images and seconds per image of each way to use a student, by name.

    `corrected` asks labeled pixels and graphs at inference; `augmented` is the mean over flips and `SCALES`. Seconds
    are those of this process and its share of the images, without reading them.
    """
    model.eval()
    settings = run.recipe.evaluation
    augmented = replace(settings, scales=SCALES, flip=run.data.flip and run.recipe.views.flip)
    guided = run.recipe.refiner.guided

    def looked_at(images: Tensor, how: Any) -> Tensor:
        return evaluation.predict(model, images, how, run.crop)

    def corrected(images: Tensor, said: Tensor | None = None) -> Tensor:
        output, _ = model(images)
        return corrector.probabilities(output if said is None else saying(output, said), images, guided=guided)

    ways: dict[str, Callable[[Tensor], Tensor]] = {
        PLAIN: lambda images: looked_at(images, settings),
        CORRECTED: corrected,
        AUGMENTED: lambda images: looked_at(images, augmented),
        ALL: lambda images: corrected(images, looked_at(images, augmented)),
    }
    found = {}
    for name, way in ways.items():
        timed = Timed(way, run.device)
        scores = evaluation.score(timed, run.data.test, run.data.class_names, run.recipe, run.device)
        found[name] = scores | {"seconds_per_image": timed.seconds / max(1, timed.images)}
    model.train()
    return found


def saying(output: NetworkOutput, probabilities: Tensor) -> NetworkOutput:
    """An answer with other probabilities, (B, C, H, W), averaged over its cells."""
    size = output.logits.shape[-2:]
    if probabilities.shape[-2:] != size:
        probabilities = F.pad(probabilities, overhang(size, probabilities.shape[-2:]), mode="replicate")
        probabilities = F.interpolate(probabilities, size=size, mode="bilinear", antialias=True)
    return output._replace(logits=probabilities.clamp_min(1e-8).log().to(output.logits.dtype))


class Timed:
    """A function of images that counts them, and the seconds that it takes."""

    def __init__(self, function: Callable[[Tensor], Tensor], device: torch.device):
        self.function, self.device, self.seconds, self.images = function, device, 0.0, 0

    def __call__(self, images: Tensor) -> Tensor:
        begin = self._now()
        found = self.function(images)
        self.seconds, self.images = self.seconds + self._now() - begin, self.images + len(images)
        return found

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
