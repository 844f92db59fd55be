"""One function for each kind of mistake, so that every message has one form.

Each names the argument in backticks, what was expected and what came. Checks of type and shape read no values and cost
nothing; ``finite`` and those after it read values, which on a GPU waits for the device.
"""

import difflib
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence, Sized

import torch
from torch import Tensor

from graphcorrect.ops.values import is_traced, values_can_be_read


def shape_of(tensor: Tensor) -> str:
    """The shape as people write it: ``(2, 64, 33, 33)``."""
    return str(tuple(tensor.shape))


def is_tensor(name: str, value: object) -> Tensor:
    """Refuses all but a dense tensor with values of its own: what else torch has fails deep inside, or is misread."""
    if not isinstance(value, Tensor):
        raise TypeError(f"expected `{name}` to be a torch.Tensor, got {type(value).__name__}")
    if value.layout is not torch.strided:
        raise TypeError(f"expected `{name}` to be dense, got the layout {value.layout}; use `.to_dense()`")
    if value.is_nested:
        raise TypeError(f"expected `{name}` to be dense, got a nested tensor; pad it, and mask the padding")
    if value.is_quantized:
        raise TypeError(f"expected `{name}` to be dense, got the quantized {value.dtype}; use `.dequantize()`")
    if not values_can_be_read(value):  # the two below are no part of traced programs
        return value
    if hasattr(value, "has_names") and value.has_names():  # torch 2.13 has no named tensors any more
        raise TypeError(f"expected `{name}` without names of dimensions, got some; use `.rename(None)`")
    if isinstance(value, torch.masked.MaskedTensor):
        raise TypeError(
            f"expected `{name}` to be a plain tensor, got a MaskedTensor; use `.get_data()` and pass `mask`"
        )
    return value


def floating(name: str, value: object) -> Tensor:
    tensor = is_tensor(name, value)
    if not tensor.is_floating_point():
        raise TypeError(f"expected `{name}` to be floating point, got {tensor.dtype}")
    return tensor


def images(name: str, value: object) -> Tensor:
    """Images are floating point in [0, 1]: files hold bytes, which must be divided first."""
    tensor = is_tensor(name, value)
    if tensor.dtype == torch.uint8:
        raise TypeError(f"expected `{name}` to be floating point, got torch.uint8; use `{name} / 255`")
    return floating(name, tensor)


def boolean(name: str, value: object) -> Tensor:
    tensor = is_tensor(name, value)
    if tensor.dtype != torch.bool:
        raise TypeError(f"expected `{name}` to be torch.bool (True takes part), got {tensor.dtype}")
    return tensor


def integral(name: str, value: object) -> Tensor:
    tensor = is_tensor(name, value)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"expected `{name}` to hold integer class labels, got {tensor.dtype}")
    return tensor


def class_labels(name: str, value: object) -> Tensor:
    """Integer labels as int64: in a narrower dtype torch wraps the number that they are compared with to a class."""
    return integral(name, value).long()


def can_hold(name: str, dtype: torch.dtype, value: int, what: str) -> None:
    """Refuses labels of an integer dtype in which a result that is returned in it would wrap to another class."""
    limits = torch.iinfo(dtype)
    if not limits.min <= value <= limits.max:
        raise ValueError(f"expected `{name}` of a dtype that holds {what}, got {dtype}; use int64")


def ndim(name: str, tensor: Tensor, allowed: Sequence[int], form: str) -> None:
    is_tensor(name, tensor)
    if tensor.ndim not in allowed:
        raise ValueError(f"expected `{name}` of shape {form}, got {shape_of(tensor)}")


def at_least_2d(name: str, tensor: Tensor, form: str) -> None:
    is_tensor(name, tensor)
    if tensor.ndim < 2:
        raise ValueError(f"expected `{name}` of shape {form}, got {shape_of(tensor)}")


def nodes(name: str, tensor: Tensor, form: str) -> None:
    """Refuses images among nodes: four dimensions mean images wherever both are taken."""
    at_least_2d(name, tensor, form)
    if tensor.ndim == 4:
        raise ValueError(
            f"expected `{name}` of shape {form}, got {shape_of(tensor)}, which means images; list their pixels with "
            "graphcorrect.nodes.image_to_nodes, or merge leading dimensions with flatten(0, 1)"
        )


def without_effect(why: str, **arguments: object) -> None:
    """Refuses arguments that were given (are not None) where nothing reads them."""
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(f"expected no `{name}` with {why}, where it has no effect, got {value}")


def shape(name: str, tensor: Tensor, expected: Sequence[int], why: str = "") -> None:
    is_tensor(name, tensor)
    if tuple(tensor.shape) != tuple(expected):
        reason = f" {why}" if why else ""
        raise ValueError(f"expected `{name}` of shape {tuple(expected)}{reason}, got {shape_of(tensor)}")


def size(name: str, tensor: Tensor, dim: int, expected: int, what: str) -> None:
    if tensor.shape[dim] != expected:
        raise ValueError(
            f"expected `{name}` with {expected} {what} in dimension {dim}, "
            f"got {tensor.shape[dim]} (shape {shape_of(tensor)})"
        )


def same_device(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    if tensor.device != other.device:
        raise ValueError(f"expected `{name}` on the device of {other_name}, {other.device}, got {tensor.device}")


def mask(name: str, value: object, expected: Sequence[int], why: str, other_name: str, other: Tensor) -> None:
    """Refuses a mask, where there is one, of another dtype or shape, or on another device than `other`."""
    if value is not None:
        tensor = boolean(name, value)
        shape(name, tensor, expected, why)
        same_device(name, tensor, other_name, other)


def not_transposed(name: str, maps: Tensor, other_name: str, other: Tensor) -> None:
    """Refuses maps (..., H, W) that lie across those of `other`: resized, each pixel would meet another one."""
    (rows, columns), (height, width) = maps.shape[-2:], other.shape[-2:]
    if not is_traced() and _fits(columns, rows, height, width) and not _fits(rows, columns, height, width):
        raise ValueError(
            f"expected `{name}` with the proportions of {other_name}, ({height}, {width}), got them transposed, "
            f"({rows}, {columns})"
        )


def _fits(rows: int, columns: int, height: int, width: int) -> bool:
    """Whether one grid is the other at a stride that is the same both ways, but for what is rounded."""
    return height * (columns - 1) <= width * (rows + 1) and width * (rows - 1) <= height * (columns + 1)


def integer_at_least(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"expected `{name}` to be an int, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"expected `{name}` to be at least {least}, got {value}")


def in_interval(
    name: str, value: object, low: float, high: float, *, open_low: bool = False, open_high: bool = False
) -> None:
    """Checks that a number lies between `low` and `high`, ends included unless `open_low` or `open_high`."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"expected `{name}` to be a number, got {type(value).__name__}")
    above = value > low if open_low else value >= low
    below = value < high if open_high else value <= high
    if not (above and below):
        interval = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
        raise ValueError(f"expected `{name}` in {interval}, got {value}")


def image_size(name: str, size: object) -> None:
    is_pair = isinstance(size, tuple | list) and len(size) == 2
    if not is_pair or not all(isinstance(side, int | torch.SymInt) and side > 0 for side in size):  # type: ignore[attr-defined]
        raise ValueError(f"expected `{name}` to be (height, width), of at least 1 each, got {size!r}")


def one_of(name: str, value: object, options: Sequence[str]) -> None:
    if value not in options:
        raise ValueError(f"expected `{name}` to be one of {', '.join(map(repr, options))}, got {value!r}")


def arguments_of(name: str, given: object, build: Callable[..., object], but: Sequence[str] = ()) -> None:
    """Refuses all but a mapping of what `build` takes by name, save those in `but`, which the caller gives himself."""
    if not isinstance(given, Mapping):
        raise TypeError(f"expected `{name}` to be a mapping of arguments, got {type(given).__name__}")
    known = [each for each in inspect.signature(build).parameters if each not in but]
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known)}"
            raise ValueError(f"expected `{name}` of arguments of {build.__name__}, got {key!r}; {hint}")


def has_values(name: str, tensor: Tensor) -> None:
    if tensor.is_meta:
        raise ValueError(f"expected `{name}` with values, got a tensor on the meta device, which has a shape alone")


def finite(name: str, tensor: Tensor) -> None:
    if not values_can_be_read(tensor):
        return
    if not bool(torch.isfinite(tensor).all()):
        bad = int((~torch.isfinite(tensor)).sum())
        raise ValueError(f"expected `{name}` to be finite, got {bad} NaN or Inf among {tensor.numel()} values")


def labels_in_range(name: str, labels: Tensor, num_classes: int, ignore_index: int | None = None) -> None:
    if not values_can_be_read(labels) or labels.numel() == 0:
        return
    labels = labels.long()
    counted = labels if ignore_index is None else labels.masked_fill(labels == ignore_index, 0)
    least, most = (int(bound) for bound in counted.aminmax())
    if least < 0 or most >= num_classes:
        outside = (labels < 0) | (labels >= num_classes)
        if ignore_index is not None:  # which stood for a class above, and there may be none
            outside &= labels != ignore_index
        values = sorted(set(labels[outside].tolist()))
        shown = ", ".join(map(str, values[:10])) + (", ..." if len(values) > 10 else "")
        ignored = "" if ignore_index is None else f" or ignore_index={ignore_index}"
        if values:
            raise ValueError(f"expected `{name}` in [0, {num_classes}){ignored}, got the values {shown}")


def not_empty(name: str, values: object, what: str) -> None:
    if not isinstance(values, Sized):
        raise TypeError(f"expected `{name}` to be a list, of at least one {what}, got {type(values).__name__}")
    if not len(values):
        raise ValueError(f"expected `{name}` with at least one {what}, got none")


def channels_first(name: str, images: Tensor) -> None:
    """Refuses images (..., H, W, 3), as files and other libraries hold them, by more rows than there are channels."""
    if images.shape[-1] == 3 and images.shape[-3] > 4:
        raise ValueError(f"expected `{name}` of shape (..., 3, H, W), got {shape_of(images)}; use .movedim(-1, -3)")


def unit_images(name: str, images: Tensor) -> None:
    """Refuses images that were normalized, or hold 0 to 255; a tenth beyond [0, 1] is what resizing leaves."""
    if not values_can_be_read(images) or images.numel() == 0:
        return
    least, most = (float(bound) for bound in images.detach().aminmax())
    if least >= -0.1 and most <= 1.1:
        return
    finite(name, images)
    if least < -0.1:
        hint = "was it normalized (mean, std)? Give the image as it was before"
    else:
        hint = "divide by 255" if most > 2 else "use .clamp(0, 1)"
    raise ValueError(f"expected `{name}` in [0, 1], got values from {least:.3g} to {most:.3g}; {hint}")


def on_simplex(name: str, probabilities: Tensor, class_dim: int) -> None:
    """Refuses what are no probabilities."""
    if not values_can_be_read(probabilities) or probabilities.numel() == 0:
        return
    if not are_probabilities(probabilities, class_dim):
        finite(name, probabilities)
        values = probabilities.detach()
        least, total = float(values.amin()), values.float().sum(class_dim)
        raise ValueError(
            f"expected `{name}`, at least 0 and with the sum 1 over the classes, got {least:.3g} at least and sums "
            f"from {float(total.amin()):.3g} to {float(total.amax()):.3g}; of logits take the softmax"
        )


def not_logits(name: str, probabilities: Tensor, class_dim: int, mask: Tensor | None = None) -> None:
    """Refuses what is below 0 or sums to more than 1 where `mask` is True; rows of zeros and NaN are taken."""
    if not values_can_be_read(probabilities) or probabilities.numel() == 0:
        return
    rows = probabilities.detach()
    rows = rows if mask is None else torch.where(mask.unsqueeze(class_dim), rows, 0.0)
    if bool((rows < -1e-4).any()) or bool((rows.float().sum(class_dim) > 1.02).any()):
        on_simplex(name, rows, class_dim)


def ignored_label(ignore_index: object, num_classes: int) -> None:
    """Refuses what is no label; warns where the default one is that of a class, of more than 255 of them."""
    if not isinstance(ignore_index, int) or isinstance(ignore_index, bool):
        raise TypeError(f"expected `ignore_index` to be an int, got {type(ignore_index).__name__}")
    if ignore_index == 255 and num_classes > 255 and not is_traced():
        warnings.warn(
            f"expected `ignore_index` that is no class of the {num_classes}, got 255, so that class 255 is left out; "
            "ignore_index=-1 leaves none out",
            stacklevel=3,
        )


def scores(name: str, logits: Tensor, class_dim: int) -> None:
    """Refuses probabilities in the place of logits: their softmax would be close to uniform.

    A row of logits or two may have such a sum by chance, so that there are to be a few.
    """
    if not values_can_be_read(logits) or logits.numel() < 4 * logits.shape[class_dim] or logits.shape[class_dim] == 1:
        return
    if are_probabilities(logits, class_dim, 1e-3):
        raise ValueError(
            f"expected `{name}`, the scores before the softmax, got rows that are at least 0 and sum to 1, as "
            "probabilities do; take their logarithm, .clamp_min(1e-8).log()"
        )


def some_prototypes(name: str, prototypes: Tensor) -> None:
    """Warns of prototypes without a mask of which every row is zero, and so none: their term of the loss is 0."""
    if values_can_be_read(prototypes) and prototypes.numel() and not bool(prototypes.any()):
        warnings.warn(
            f"expected `{name}` with a row that is not zero, got none, so that their term of the loss is 0; update the "
            "bank before the loss, or say so by `prototype_mask=bank.is_initialized`",
            stacklevel=3,
        )


def are_probabilities(rows: Tensor, class_dim: int, slack: float = 0.02) -> bool:
    """Whether values are at least 0 and sum to 1 along a dimension; half precision rounds each of C by up to 5e-4."""
    rows = rows.detach()
    total = rows.float().sum(class_dim)
    return bool((rows.amin() >= -1e-4) & ((total - 1).abs().amax() <= slack))
