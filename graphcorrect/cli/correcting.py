"""Ways to correct one prediction: by the keys of an encoder, or by feature maps that are there."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphcorrect.banks.anchors import AnchorBank
from graphcorrect.banks.presets import PRIOR
from graphcorrect.cells import full_size
from graphcorrect.cli.models import open_encoder
from graphcorrect.corrector import SegmentationCorrector
from graphcorrect.files.faults import FileFault, reading
from graphcorrect.files.images import read_image
from graphcorrect.files.items import Item, read_features
from graphcorrect.files.label_maps import LabelMap
from graphcorrect.files.masks import read_mask
from graphcorrect.guided import guided_upsample
from graphcorrect.refine import DualGraphRefiner

# (item, image (1, 3, H, W) or None, logits (1, C, h, w), known (1, h, w)) -> probabilities (1, C, H, W)
Correction = Callable[[Item, Tensor | None, Tensor, Tensor | None], Tensor]


def read_unit_image(item: Item, device: torch.device) -> Tensor | None:
    """The image of an item, (1, 3, H, W) in [0, 1], or None if it has none."""
    if item.image is None:
        return None
    with reading(item.image):
        return read_image(item.image)[None].to(device).float() / 255


def read_labels(item: Item, classes: LabelMap | int, device: torch.device) -> Tensor:
    """The true mask of an item, (1, H, W) int64."""
    with reading(item.labels):
        return read_mask(item.labels, classes)[None].to(device)


def correction(args: argparse.Namespace, num_classes: int, feature_dim: int, labeled: Iterable[Item]) -> Correction:
    """What the options ask for, with the labeled images taken in."""
    if args.encoder is not None or args.corrector is not None:
        return by_encoder(args, num_classes, labeled)
    return by_features(args, num_classes, feature_dim, labeled)


def by_encoder(args: argparse.Namespace, num_classes: int, labeled: Iterable[Item]) -> Correction:
    """A corrector, which looks at the images itself."""
    device = args.device
    if args.corrector is not None:
        corrector = _saved_corrector(args.corrector, num_classes).to(device)
    else:
        corrector = SegmentationCorrector(
            num_classes,
            open_encoder(args.encoder, device),
            preset=args.preset,
            position=args.position_weight or 0.0,
            weights=args.encoder_weights,
            bank=_bank_settings(args),
            refiner=_refiner_settings(args),
            guided=args.guided,
        ).to(device)
        classes = args.label_map or num_classes
        try:
            corrector.fit((read_unit_image(item, device), read_labels(item, classes, device)) for item in labeled)
        except ValueError:
            _refuse_empty(corrector.bank_, args.labeled_masks)
            raise

    def correct(item: Item, image: Tensor | None, logits: Tensor, known: Tensor | None) -> Tensor:
        assert image is not None
        return corrector(image, logits=logits, mask=known).probabilities  # type: ignore[no-any-return]

    return correct


def by_features(args: argparse.Namespace, num_classes: int, feature_dim: int, labeled: Iterable[Item]) -> Correction:
    """An untrained refiner on feature maps, or on features of pixels, and a bank of labeled ones if there are any."""
    device, anchors = args.device, None
    refiner = DualGraphRefiner(num_classes, feature_dim, **_refiner_settings(args)).to(device).eval()
    position = 1.0 if args.position_weight is None else args.position_weight
    if args.labeled_masks is not None:
        settings = {"capacity_per_class": 3000, **PRIOR, **_bank_settings(args)}
        anchors = AnchorBank(num_classes, feature_dim, **settings).to(device)
        for item in labeled:
            features = read_features(item, position, args.channels)
            anchors.update(features[None].to(device), read_labels(item, args.label_map or num_classes, device))
        _refuse_empty(anchors, args.labeled_masks)

    def correct(item: Item, image: Tensor | None, logits: Tensor, known: Tensor | None) -> Tensor:
        features = read_features(item, position, args.channels)[None].to(device)
        soft: Tensor = refiner(features, logits, mask=known, anchors=anchors).soft_labels
        if image is None:
            return soft
        return guided_upsample(soft, image) if args.guided else full_size(soft, image.shape[-2], image.shape[-1])

    return correct


def _refiner_settings(args: argparse.Namespace) -> dict[str, Any]:
    given = {"num_rounds": args.rounds, "num_neighbors": args.neighbors, "max_nodes": args.max_nodes}
    return {**given, "alpha": args.alpha, "sigma": args.sigma}


def _bank_settings(args: argparse.Namespace) -> dict[str, Any]:
    given = {"capacity_per_class": args.anchor_capacity, "balance": args.balance}
    return {name: value for name, value in given.items() if value is not None}


def _refuse_empty(bank: AnchorBank | None, masks: Path) -> None:
    if bank is None or not bank.counts.any():
        raise ValueError(
            f"expected --labeled-masks with labeled pixels, got {masks} in which every pixel is void, or every cell of "
            "the features"
        )


def _saved_corrector(name: str, num_classes: int) -> SegmentationCorrector:
    if not Path(name).is_dir():  # a mistake in a path, perhaps, and the hub takes its time to say so
        print(f"--corrector {name} is no folder here: asking the Hugging Face Hub")
    with reading(name, "a folder of SegmentationCorrector.save_pretrained, or a repository of the hub", folder=True):
        try:
            corrector = SegmentationCorrector.from_pretrained(name)
        except ValueError as error:
            said = str(error).replace("`name`", "--corrector")
            if "`encoder`, as the saved corrector" in said:
                said = f"expected --corrector with an encoder of timm, got {name} with one of its own"
            elif said == str(error):
                raise
            raise FileFault(said) from error
    if corrector.bank_ is None:
        raise ValueError(f"expected --corrector with labeled images, got {name}, which was saved before `fit`")
    if corrector.num_classes != num_classes:
        raise ValueError(f"expected --corrector of {num_classes} classes, got {name} of {corrector.num_classes}")
    return corrector
