"""Labels, probabilities, images and features of many images, read side by side, an image at a time."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from graphcorrect import _checks
from graphcorrect._copies import copy_of

# An array or tensor of all images, an iterable of images or batches, or a function that returns an iterator
Images: TypeAlias = Any
FORMS = {"labels": "(H, W)", "probabilities": "(C, h, w)", "images": "(3, H, W)", "features": "(D, h, w)"}


class LabeledImage(NamedTuple):
    """One image, on the device of its probabilities."""

    place: int  # among all, from 0
    labels: Tensor  # (H, W), integers
    probabilities: Tensor  # (C, h, w) float32 or wider
    image: Tensor | None  # (3, H, W) floating point in [0, 1]
    features: Tensor | None  # (D, h', w') floating point
    as_tensors: bool  # whether the labels came as a tensor


class ImageSources:
    """What :func:`graphcorrect.label_issues` was given, checked as it is read."""

    def __init__(
        self, labels: Images, probabilities: Images, images: Images | None, features: Images | None, ignore_index: int
    ) -> None:
        self._encoder = _encoder_in(features)
        if self._encoder is not None and images is None:
            raise ValueError("expected `images` that the encoder in `features` can look at, got None")
        read = None if self._encoder is not None else features
        sources = {"labels": labels, "probabilities": probabilities, "images": images, "features": read}
        optional = ("images", "features")
        self._sources = {name: each for name, each in sources.items() if each is not None or name not in optional}
        self.ignore_index = ignore_index
        self.as_tensors = False  # of the labels that were read last
        self._once = [name for name, each in self._sources.items() if isinstance(each, Iterator)]
        self._was_read = False
        for name, each in self._sources.items():
            if isinstance(each, str | bytes) or not (isinstance(each, Iterable) or callable(each)):
                raise TypeError(
                    f"expected `{name}` to be an array of all images, an iterable, or a function that returns an "
                    f"iterator, got {type(each).__name__}"
                )
        if self._once and features is not None:
            raise TypeError(
                f"expected `{self._once[0]}` that can be read twice, since `features` are compared across images, got "
                "an iterator; pass a list, or a function that returns a new iterator"
            )

    def __iter__(self) -> Iterator[LabeledImage]:
        if self._once and self._was_read:
            raise RuntimeError(
                f"expected `{self._once[0]}` that can be read again, got an iterator that has been read; keep its "
                "results, or pass a list, or a function that returns a new iterator"
            )
        self._was_read = True
        streams = [_each(name, source) for name, source in self._sources.items()]
        num_classes = None
        for place, found in enumerate(itertools.zip_longest(*streams)):
            values = dict(zip(self._sources, found, strict=True))
            ended = [name for name, value in values.items() if value is None]
            if ended:
                going_on = next(name for name in values if name not in ended)
                raise ValueError(
                    f"expected `{ended[0]}` of as many images as `{going_on}`, got {place} and more than {place}"
                )
            item = self._checked(place, values)
            if num_classes is None:
                num_classes = len(item.probabilities)
                _checks.ignored_label(self.ignore_index, num_classes)
            where = f"probabilities (image {place})"
            _checks.size(where, item.probabilities, 0, num_classes, "classes")
            yield item

    def count(self) -> int:
        """The number of images, for which labels are read through where nothing tells it."""
        labels = self._sources["labels"]
        if hasattr(labels, "shape"):
            return len(labels)
        if "labels" in self._once:
            raise TypeError("expected `labels` whose images can be counted, got an iterator; pass a list or a function")
        return sum(1 for _ in _each("labels", labels))

    def _checked(self, place: int, values: dict[str, Any]) -> LabeledImage:
        """One image's values as tensors that fit each other."""
        named = {name: f"{name} (image {place})" for name in values}
        tensors = {name: _tensor(named[name], value) for name, value in values.items()}
        for name, tensor in tensors.items():
            _checks.ndim(named[name], tensor, (len(FORMS[name].split(",")),), FORMS[name])
        labels, probabilities = tensors["labels"], tensors["probabilities"]
        labels, probabilities = labels.to(probabilities.device), _real(named["probabilities"], probabilities)
        _checks.integral(named["labels"], labels)
        last = len(probabilities) - 1
        _checks.can_hold(named["labels"], labels.dtype, last, f"class {last}")  # which a label may be corrected to
        _checks.labels_in_range(named["labels"], labels, len(probabilities), self.ignore_index)
        if probabilities.numel() == 0:
            shape = _checks.shape_of(probabilities)
            raise ValueError(f"expected `{named['probabilities']}` of at least one class and pixel, got {shape}")
        _checks.on_simplex(named["probabilities"], probabilities, 0)
        size = tuple(labels.shape)
        if any(small > large for small, large in zip(probabilities.shape[1:], size, strict=True)):
            raise ValueError(
                f"expected `{named['probabilities']}` no larger than its labels, {size}, "
                f"got {tuple(probabilities.shape[1:])}"
            )
        image, features = tensors.get("images"), tensors.get("features")
        if image is not None:
            _checks.channels_first(named["images"], image)
            if tuple(image.shape[1:]) != size:
                raise ValueError(
                    f"expected `{named['images']}` of the size of its labels, {size}, got {tuple(image.shape[1:])}"
                )
            image = image.float() / 255 if image.dtype == torch.uint8 else image
            image = _real(named["images"], image).to(probabilities.device)
            _checks.unit_images(named["images"], image)
        if self._encoder is not None and image is not None:
            features = _encoded(self._encoder, image, place)
        if features is not None:
            features = _real(f"features (image {place})", features).to(probabilities.device)
        self.as_tensors = isinstance(values["labels"], Tensor)
        return LabeledImage(place, labels, probabilities, image, features, self.as_tensors)


def _each(name: str, source: Images) -> Iterator[Any]:
    """Images one by one, of whatever holds them; batches are taken apart."""
    single = len(FORMS[name].split(","))
    for item in source() if callable(source) and not isinstance(source, Tensor) else source:
        if getattr(item, "ndim", single) == single + 1:
            yield from item
        else:
            yield item


def _tensor(name: str, value: Any) -> Tensor:
    """Numpy's arrays as tensors that share their memory where torch can."""
    if isinstance(value, np.ndarray):
        if np.ma.is_masked(value):
            raise TypeError(
                f"expected `{name}` to be a plain array, got a masked one; use .filled(), labels with `ignore_index`"
            )
        value = value.astype(value.dtype.newbyteorder("="), copy=False)  # files may hold the other order of bytes
        if not value.flags.writeable or any(step < 0 for step in value.strides):
            value = value.copy()
        value = torch.from_numpy(value)
    _checks.is_tensor(name, value)
    assert isinstance(value, Tensor)
    return value.detach()


def _encoder_in(features: object) -> Callable[[Tensor], Any] | None:
    """A copy of a module, which stays as it is; a function that wants an argument; None for features themselves."""
    if isinstance(features, nn.Module):
        return copy_of("features", features)
    if not callable(features) or isinstance(features, Tensor):
        return None
    try:
        inspect.signature(features).bind()
    except TypeError:
        return features
    except ValueError:  # of what is written in C
        pass
    return None


@torch.no_grad()
def _encoded(encoder: Callable[[Tensor], Any], image: Tensor, place: int) -> Tensor:
    """What an encoder says of one image, (D, h, w)."""
    weight = next(encoder.parameters(), None) if isinstance(encoder, nn.Module) else None
    given = image[None].clone()  # an encoder may normalize in place
    maps = encoder(given if weight is None else given.to(weight.device, weight.dtype))
    if not isinstance(maps, Tensor) or maps.ndim != 4 or len(maps) != 1:
        shape = _checks.shape_of(maps) if isinstance(maps, Tensor) else type(maps).__name__
        raise ValueError(
            f"expected the encoder in `features` to return one map (1, D, h, w), got {shape} (image {place})"
        )
    return maps[0]


def _real(name: str, tensor: Tensor) -> Tensor:
    """Floating point of at least float32, finite."""
    _checks.floating(name, tensor)
    _checks.finite(name, tensor)
    return tensor if tensor.dtype == torch.float64 else tensor.float()
