"""SegmentationCorrector: a trained network's masks made better by labeled images, in one call and without training."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from graphcorrect import _checks
from graphcorrect.banks._choice import NONE, Calibration, Settings, choose, counts_of
from graphcorrect.banks.anchors import AnchorBank
from graphcorrect.banks.calibration import calibrate
from graphcorrect.banks.presets import Preset, index_of
from graphcorrect.cells import aligned, enlarged, full_size, pad_to_cells, size_of
from graphcorrect.corrected_labels import CorrectedLabels
from graphcorrect.corrector_input import judged_images, labeled_images, pairs_of, scores_of_images
from graphcorrect.corrector_state import CARD, CorrectorState
from graphcorrect.encoders import PREFIX, key_encoder
from graphcorrect.guided import guided_upsample
from graphcorrect.keys import Maps
from graphcorrect.labels import IGNORE_INDEX
from graphcorrect.refine import DualGraphRefiner

MAGNIFICATIONS = (1.0, 2.0, 3.0)


class SegmentationCorrector(
    CorrectorState, library_name="graphcorrect", tags=["image-segmentation"], model_card_template=CARD
):
    """Corrects the masks of any trained network by looking their pixels up among labeled ones. Nothing is trained.

    Three steps, each usable alone: an :class:`AnchorBank` of labeled pixels moves the probabilities, the two graphs of
    a :class:`DualGraphRefiner` clean up within the image, and :func:`guided_upsample` takes the result to full size
    along the edges of the image. Images are corrected one by one, so that a batch changes no result.

    Args:
        num_classes: C.
        encoder: what pixels are looked up by: "timm:NAME", or a module (copied as it is now) or callable that turns
            images (B, 3, H, W) in [0, 1] into a map or a list of maps (:class:`graphcorrect.keys.KeyEncoder`). Best one
            that was not trained on the labeled images, such as the encoder with its published weights.
        preset: "quality" searches all anchors exactly; "fast" by 128 principal directions, and through an approximate
            index where faiss is installed.
        levels: which maps of the encoder; None takes those at 1/8 and 1/16.
        magnifications: sizes at which images are looked at; None is 1, 2 and 3.
        position: weight of a pixel's place among its keys; 1 where images lie alike, as scans of one organ do.
        pretrained: False leaves a timm encoder's weights random; of no use but to load others.
        weights: a file of weights for a timm encoder, instead of the hub's.
        bank: arguments of :class:`AnchorBank` over those of the preset, such as `{"strength": 0.5}`. Unless given,
            classes are balanced as far as they are among the labeled pixels (`balance` None), the strength is 1.2, and
            the capacity 10,000 anchors a class, or fewer where they would take more than 1 GiB.
        refiner: arguments of :class:`DualGraphRefiner`, such as `{"num_rounds": 1}`; `num_rounds` 0 leaves it out.
        guided: False interpolates instead of following the edges of the image.
        ignore_index: label that `fit` leaves out.
        validate_args: True refuses images that are not in [0, 1], probabilities that are none, and logits that are
            probabilities, which reads them and so waits for a GPU.

    Attributes:
        bank_: the :class:`AnchorBank`; None before `fit`.

    Raises:
        ValueError, TypeError: an argument is out of range or of the wrong type.
        ImportError: `encoder` names one of timm, which is not installed.

    Bank, settings, and the encoder's weights if it is a module are in the `state_dict`. `save_pretrained(folder)`,
    `from_pretrained(folder or repository)` and `push_to_hub(repository)` are those of `huggingface_hub` (extra `hub`);
    an encoder of your own is given again: `from_pretrained(folder, encoder=mine)`.

    Example:
        >>> encoder = torch.nn.Conv2d(3, 8, 8, stride=8)  # stands for a pretrained one
        >>> corrector = SegmentationCorrector(num_classes=2, encoder=encoder)
        >>> images, masks = torch.rand(4, 3, 32, 48), torch.randint(2, (4, 32, 48))
        >>> corrected = corrector.fit(images, masks)(images, logits=torch.randn(4, 2, 8, 12))
        >>> corrected.labels.shape
        torch.Size([4, 32, 48])
    """

    def __init__(
        self,
        num_classes: int,
        encoder: str | Callable[[Tensor], Maps],
        *,
        preset: Preset = "quality",
        levels: Sequence[int] | None = None,
        magnifications: Sequence[float] | None = None,
        position: float = 0.0,
        pretrained: bool = True,
        weights: str | Path | None = None,
        bank: Mapping[str, Any] | None = None,
        refiner: Mapping[str, Any] | None = None,
        guided: bool = True,
        ignore_index: int = IGNORE_INDEX,
        validate_args: bool = True,
    ) -> None:
        super().__init__()
        _checks.integer_at_least("num_classes", num_classes, 2)
        _checks.one_of("preset", preset, get_args(Preset))
        _checks.ignored_label(ignore_index, num_classes)
        self.num_classes = num_classes
        self.preset: Preset = preset
        self.guided = guided
        self.ignore_index = ignore_index
        self.validate_args = validate_args
        own = ("num_classes", "feature_dim")
        _checks.arguments_of("bank", {} if bank is None else bank, AnchorBank, own)
        _checks.arguments_of("refiner", {} if refiner is None else refiner, DualGraphRefiner, own)
        self._bank_settings = dict(bank or {})
        self._refiner_settings = dict(refiner or {})
        self.key_encoder = key_encoder(
            encoder,
            levels=levels,
            pretrained=pretrained,
            weights=weights,
            magnifications=MAGNIFICATIONS if magnifications is None else magnifications,
            position=position,
        )
        if isinstance(encoder, str):
            self.encoder_name = PREFIX + encoder.removeprefix(PREFIX)
        else:
            self.encoder_name = f"{type(encoder).__module__}.{type(encoder).__qualname__}"
        self.bank_ = None
        self._unknown: list[int] = []  # classes that nobody has been told of
        self._refiners: dict[int, DualGraphRefiner] = {}
        self.register_buffer("_place", torch.empty(0), persistent=False)  # tells the device
        if self._hub_mixin_config is not None:  # what a folder of results says: its weights lie beside it
            self._hub_mixin_config.update(pretrained=False, weights=None)
        self._new_bank(1)  # so that a wrong setting is refused here
        self._new_refiner(1)

    def fit(self, images: Iterable[Any], masks: Iterable[Tensor] | None = None) -> SegmentationCorrector:
        """Adds labeled images to those that pixels are looked up among.

        Args:
            images: (B, 3, H, W) in [0, 1], or (3, H, W) each; or a loader of pairs of images and masks.
            masks: (B, H, W) integers in [0, C) or `ignore_index`, of the images' size; None where `images` are pairs.

        Returns:
            Itself. Tensors and lists are checked before any is added; of a loader, what came before a fault stays.

        Raises:
            ValueError: shapes or ranges do not fit, or there was no image.
            TypeError: dtypes do not fit.
        """
        asked = self.num_classes, self.ignore_index, self._place, self.validate_args
        found: Iterable[tuple[Tensor, Tensor]] = (labeled_images(pair, *asked) for pair in pairs_of(images, masks))
        if isinstance(images, Sequence | Tensor):
            found = list(found)  # all of them are checked before the first is remembered
        seen = 0
        for given in found:
            for image, labels in zip(*given, strict=True):
                self._remember(image[None], labels[None])
                seen += 1
        if not seen:
            raise ValueError("expected labeled images to `fit`, got none")
        counts = self._fitted().counts.tolist()
        if not any(counts):
            self.bank_ = None
            raise ValueError("expected `masks` with a labeled pixel, got none, or none that fills a cell of the keys")
        self._unknown = [number for number, count in enumerate(counts) if not count]
        return self

    @torch.no_grad()
    def calibrate(
        self,
        images: Tensor | Sequence[Tensor],
        masks: Tensor | Sequence[Tensor],
        *,
        probabilities: Tensor | Sequence[Tensor] | None = None,
        logits: Tensor | Sequence[Tensor] | None = None,
        max_class_loss: float = 0.01,
    ) -> Calibration:
        """Lets labeled images choose how far anchors move a probability.

        :func:`graphcorrect.calibrate` finds settings by the look-up alone. They replace those in place if the whole
        correction, with graphs and edges, is better with them, by more than a standard error over the images.

        Args:
            images: (B, 3, H, W) in [0, 1], or (3, H, W) each, which **neither the network was trained on nor `fit` was
                given**; ten or more, since fewer tell few settings apart.
            masks: (B, H, W) integers in [0, C) or `ignore_index`, or (H, W) each.
            probabilities: (B, C, h, w) of any resolution, or (C, h, w) each: what the network says of them; or
            logits: (B, C, h, w), or (C, h, w) each.
            max_class_loss: IoU that a class may lose, in [0, 1].

        Returns:
            The settings, which the corrector and its `state_dict` now have, and what the whole correction with them is
            worth on these images.

        Raises:
            RuntimeError: `fit` was not called.
            ValueError: shapes, devices or ranges do not fit, or no pixel has a label.
            TypeError: dtypes do not fit.

        Cost: keys of each image and a look-up, and three corrections by the same keys.
        """
        bank = self._fitted()
        shown = judged_images(
            images, masks, probabilities, logits, self.num_classes, self.ignore_index, self._place, self.validate_args
        )
        in_place = Settings.of(bank)
        keys, labels, said = zip(*(self._on_keys(*of_image) for of_image in shown), strict=True)
        found = calibrate(bank, keys, labels, said, max_class_loss=max_class_loss)
        compared = list(dict.fromkeys((in_place, found.settings, NONE)))
        try:
            counts = [self._outcomes(*each, compared, keys=own[None]) for each, own in zip(shown, keys, strict=True)]
        finally:
            in_place.give(bank)
        chosen = choose(compared, torch.stack(counts), max_class_loss)
        chosen.settings.give(bank)
        return chosen._replace(tried=found.tried)

    @torch.no_grad()
    def forward(
        self,
        images: Tensor,
        *,
        probabilities: Tensor | None = None,
        logits: Tensor | None = None,
        features: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> CorrectedLabels:
        """Corrects what a network says of images.

        Args:
            images: (B, 3, H, W) in [0, 1], as the network's before normalization.
            probabilities: (B, C, h, w) of any resolution, on the simplex; or
            logits: (B, C, h, w), scores before the softmax; one of the two.
            features: (B, D, h', w') of the network, for the graphs within the image; None takes the keys.
            mask: (B, h, w) bool, False where there is no prediction; such pixels keep theirs and reach nobody.

        Raises:
            RuntimeError: `fit` was not called.
            ValueError: shapes, devices or ranges do not fit; what is given as something else is named.
            TypeError: dtypes do not fit.
        """
        given = scores_of_images(
            images, probabilities, logits, features, mask, self.num_classes, self._place, self.validate_args
        )
        self._fitted()
        if self._unknown:
            classes = ", ".join(map(str, self._unknown))
            warnings.warn(f"fit was given no labeled pixel of class {classes}, which loses to the others", stacklevel=2)
            self._unknown = []
        corrected = []
        for number in range(len(images)):
            of_one = [None if each is None else each[number : number + 1] for each in (given, features, mask)]
            corrected.append(self._correct_one(images[number : number + 1], *of_one))
        size = (0, self.num_classes, *images.shape[-2:])
        return CorrectedLabels(torch.cat(corrected) if corrected else given.new_zeros(size))

    def _correct_one(
        self,
        image: Tensor,
        scores: Tensor | None,
        features: Tensor | None,
        mask: Tensor | None,
        *,
        keys: Tensor | None = None,
    ) -> Tensor:
        assert scores is not None
        keys = self.key_encoder(image) if keys is None else keys
        features = keys if features is None else features
        # Cell on cell, and no coarser than the keys, so that what is thin is looked up
        size, grid = size_of(image), size_of(keys)
        scores, mask, cell = aligned(scores, mask, grid, size)
        found = self._refiner(features)(features, scores, mask=mask, anchors=self._fitted(), anchor_features=keys)
        soft, known = enlarged(found.soft_labels, mask, cell, size)
        return guided_upsample(soft, image, mask=known) if self.guided else soft

    def _on_keys(self, image: Tensor, labels: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys (D, h, w) of an image, and its labels and probabilities with the keys' cells on theirs."""
        keys = self.key_encoder(image)
        grid = size_of(keys)
        said = aligned(scores.softmax(1), None, grid, size_of(image))[0]
        return keys[0], pad_to_cells(labels, grid, self.ignore_index)[0], said[0]

    def _outcomes(
        self, image: Tensor, labels: Tensor, scores: Tensor, compared: Iterable[Settings], *, keys: Tensor
    ) -> Tensor:
        """Counts (1 + settings, 3, C) of an image: what the network says, and what each of the settings makes of it."""
        found = [full_size(scores.softmax(1), *size_of(image))]
        for settings in compared:
            settings.give(self._fitted())
            found.append(self._correct_one(image, scores, None, None, keys=keys))
        asked = self.num_classes, self.ignore_index
        return torch.stack([counts_of(each.argmax(1), labels, *asked) for each in found])

    def _fitted(self) -> AnchorBank:
        if self.bank_ is None:
            raise RuntimeError("expected a SegmentationCorrector with labeled images, got none; call fit first")
        return self.bank_

    def _remember(self, image: Tensor, labels: Tensor) -> None:
        keys = self.key_encoder(image)
        if self.validate_args:
            _checks.finite("the keys of `encoder`", keys)
        if self.bank_ is None:
            self.bank_ = self._new_bank(keys.shape[1])
        self.bank_.update(keys, pad_to_cells(labels, size_of(keys), self.ignore_index))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SegmentationCorrector:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.bank_ is not None and "index" not in self._bank_settings:
            self.bank_.index = index_of(self.preset, self._place)
        return self

    def _new_refiner(self, feature_dim: int) -> DualGraphRefiner:
        """An untrained one, whose random residuals are multiplied by zero: not drawn from the caller's numbers."""
        with torch.random.fork_rng(devices=[]):
            return DualGraphRefiner(self.num_classes, feature_dim, **self._refiner_settings).eval()

    def _refiner(self, features: Tensor) -> DualGraphRefiner:
        dim = features.shape[1]
        if dim not in self._refiners:
            self._refiners[dim] = self._new_refiner(dim)
        return self._refiners[dim].to(features.device)
