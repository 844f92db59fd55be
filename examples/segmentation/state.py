"""What a run changes and so what a checkpoint holds: networks, banks, optimizer; and how they are built."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from graphcorrect import DualGraphRefiner, DynamicThreshold, EMATeacher, LabelCorrectionLoss, PrototypeBank
from segmentation.keys import KeyEncoder, LabeledPixels, pretrained_keys
from segmentation.method import parse
from segmentation.model import SegmentationModel
from segmentation.networks import SegmentationNetwork
from segmentation.processes import synchronize_batchnorm
from segmentation.recipe import Recipe
from segmentation.teaching import Banks


@dataclass
class State:
    """What a run changes; `state_dict` is all of it, or all that a warm-up makes."""

    model: SegmentationModel
    teacher: EMATeacher
    banks: Banks
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0

    def state_dict(self, *, banks: bool = True) -> dict:
        names = ("model", "teacher", *(("banks",) if banks else ()), "optimizer", "scaler")
        return {"step": self.step, **{name: getattr(self, name).state_dict() for name in names}}

    def load_state_dict(self, state: dict) -> None:
        self.load_warmup(state)
        self.banks.load_state_dict(state["banks"])

    def load_warmup(self, state: dict) -> None:
        """All but the banks, which are empty after a warm-up."""
        self.step = state["step"]
        for name in ("model", "teacher", "optimizer", "scaler"):
            getattr(self, name).load_state_dict(state[name])


def build(recipe: Recipe, num_classes: int, device: torch.device) -> State:
    """Network, refiner, teacher, banks and optimizer, all at their beginning; the same on every process."""
    torch.manual_seed(recipe.running.seed)
    settings = recipe.optimizer
    network = SegmentationNetwork(num_classes, recipe.network)
    # Channels last: the layout of fast convolutions, on CPUs and on GPUs alike.
    network = network.to(memory_format=torch.channels_last)
    model = SegmentationModel(network, new_refiner(recipe, num_classes)).to(device, dtype_of(recipe))
    model = synchronize_batchnorm(model, device)
    groups = model.network.parameter_groups(settings.learning_rate, settings.head_factor)
    refiner = list(model.refiner.parameters())
    groups.append({"params": refiner, "lr": settings.learning_rate * settings.head_factor})
    for group in groups:
        group["peak"] = group["lr"]
    if settings.name == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            groups, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
    else:
        optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
    banks = Banks(new_prototypes(recipe, num_classes), new_anchors(recipe, num_classes, network))
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.running.precision == "fp16")
    return State(
        model,
        EMATeacher(model, momentum=recipe.teacher.momentum),
        banks.to(device, dtype_of(recipe)),
        optimizer,
        scaler,
    )


def dtype_of(recipe: Recipe) -> torch.dtype:
    """Of weights and images; autocast computes in less where the recipe says so."""
    return torch.float64 if recipe.running.precision == "fp64" else torch.float32


class EqualThreshold(DynamicThreshold):
    """The ablation of Eq. (9): sigma for every class, whoever is confident."""

    def forward(self, probabilities: Tensor, *, mask: Tensor | None = None) -> Tensor:
        return torch.full((self.num_classes,), self.sigma, device=probabilities.device)


def new_refiner(recipe: Recipe, num_classes: int) -> DualGraphRefiner:
    """The refiner of the recipe, at its beginning: it corrects already, by plain propagation."""
    settings = recipe.refiner
    refiner = DualGraphRefiner.from_preset(
        settings.preset,
        num_classes=num_classes,
        feature_dim=recipe.network.feature_dim,
        num_rounds=settings.rounds,
        num_neighbors=settings.neighbors,
        alpha=settings.alpha,
        sigma=settings.sigma,
        order=settings.order,
        max_nodes=settings.max_nodes,
    )
    if not settings.class_threshold:
        refiner.threshold = EqualThreshold(num_classes, settings.sigma)
    return refiner


def new_correction(recipe: Recipe) -> LabelCorrectionLoss | None:
    """The loss of Eq. (17); None without any of its parts: the graphs then stay what they are when built."""
    settings = recipe.loss
    if settings.slg_weight == settings.clg_weight == 0:
        return None
    return LabelCorrectionLoss(
        slg_weight=settings.slg_weight,
        clg_weight=settings.clg_weight,
        balance=settings.balance,
        temperature=settings.temperature,
        self_weighted=settings.self_weighted,
    )


def new_prototypes(recipe: Recipe, num_classes: int) -> PrototypeBank | None:
    """A bank that has seen nothing; None without prototypes."""
    if not recipe.loss.prototypes:
        return None
    return PrototypeBank(
        num_classes,
        recipe.network.feature_dim,
        num_rounds=recipe.refiner.rounds,
        momentum=_of_a_part(recipe.loss.prototype_momentum, recipe),
    )


def _of_a_part(kept: float, recipe: Recipe) -> float:
    """What one part of a step keeps of a bank for the whole step to keep a share: each part is an update."""
    return float(kept ** (1 / recipe.schedule.accumulate))


def new_anchors(recipe: Recipe, num_classes: int, network: SegmentationNetwork) -> LabeledPixels | None:
    """An empty bank; None where no method uses anchors. `network` is the one of which nothing is learned yet.

    It forgets: an anchor of 100 steps ago weighs a third at a decay of 0.99.
    """
    settings, encoder, parts, dim = recipe.anchors, None, None, network.middle_dim
    if not any(parse(name).uses_anchors for name in recipe.methods):
        return None
    if settings.keys == "initial":
        encoder = KeyEncoder(network, settings.levels or (3, 4), settings.magnifications)
        dim = encoder.dim
    elif settings.keys == "pretrained":
        encoder, dim = pretrained_keys(settings.encoder, settings.levels, settings.magnifications)
        encoder = encoder.to(network.mean.device, network.mean.dtype)
    elif settings.levels is not None:
        ends = list(itertools.accumulate(network.encoder.out_channels[2:5], initial=0))
        parts = tuple((ends[level - 2], ends[level - 1]) for level in settings.levels)
        dim = sum(last - first for first, last in parts)
    return LabeledPixels(
        num_classes,
        dim,
        encoder=encoder,
        parts=parts,
        position=settings.position,
        capacity_per_class=settings.capacity,
        num_neighbors=settings.neighbors,
        temperature=settings.temperature,
        strength=settings.strength,
        eps=settings.eps,
        balance=settings.balance,
        decay=_of_a_part(settings.decay, recipe),
        quota_per_image=settings.quota,
        key_dim=settings.key_dim,
        skip_certain=settings.skip_certain,
    )
