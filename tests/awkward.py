"""Draws for fuzzing: tensors that are zero, tied, huge, tiny, mixed or spoiled, and arguments that do not fit.

`pick` takes a sequence and gives one of its elements: hypothesis's choice, or that of a random generator.
"""

import pytest
import torch
from strategies import IGNORE, draw
from torch.testing import assert_close

D, C = 3, 3  # width and classes of what is drawn
NODES = [5, 6, 4, 3, 2, 1, 0]
BATCH = [1, 2, 0]
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
TAME = ("normal", "zeros", "ties", "duplicates")
FINITE = (*TAME, "huge", "tiny", "mixed")
KINDS = (*FINITE, "spoiled")
BOTH = (False, True)
SEEDS = range(2**32)


def fill(kind, seed, shape, dtype):
    """A tensor of one kind of numbers; all but "spoiled" are finite in `dtype`."""
    random, limits = draw(seed), torch.finfo(dtype)
    values = torch.randn(shape, generator=random, dtype=torch.float64)
    if kind == "zeros":
        values = values * 0
    elif kind == "ties":
        values = values.clamp(-1, 1).round()
    elif kind == "duplicates" and len(shape) > 1 and values.numel():
        values = values[..., torch.randint(max(1, shape[-2]), shape[-2:-1], generator=random), :]
    elif kind == "huge":
        values = torch.rand(shape, generator=random, dtype=torch.float64) * 2 - 1
        values = values.sign() * (0.5 + values.abs() / 2) * limits.max
    elif kind == "tiny":  # subnormal numbers among them
        values = values * limits.tiny
    elif kind == "mixed":
        exponent = torch.rand(shape, generator=random, dtype=torch.float64) * 2 - 1
        values = (values.clamp(-1, 1) * limits.max ** exponent.abs()).clamp(-limits.max, limits.max)
        values = torch.where(exponent > 0, values, values / limits.max)
    values = values.to(dtype)
    if kind == "spoiled" and values.numel():
        bad = torch.tensor([torch.nan, torch.inf, -torch.inf], dtype=dtype)
        places = torch.randint(values.numel(), (2,), generator=random)
        values.view(-1)[places] = bad[torch.randint(3, (2,), generator=random)]
    return values


def draw_tensor(pick, *shape, dtype=None, kinds=KINDS):
    """(tensor, kind)."""
    kind = pick(kinds)
    dtype = pick(DTYPES) if dtype is None else dtype
    return fill(kind, pick(SEEDS), shape, dtype), kind


def draw_labels(pick, *shape, num_classes):
    """(labels, whether all are classes or ignored)."""
    kind = pick(["any", "any", "half ignored", "all ignored", "one class", "no class", "negative"])
    random = draw(pick(SEEDS))
    labels = torch.randint(num_classes, shape, generator=random)
    if kind == "half ignored":
        labels = torch.where(torch.rand(shape, generator=random) < 0.5, IGNORE, labels)
    elif kind == "all ignored":
        labels = torch.full_like(labels, IGNORE)
    elif kind == "one class":
        labels = torch.full_like(labels, pick(range(num_classes)))
    elif kind in ("no class", "negative") and labels.numel():
        labels.view(-1)[pick(range(labels.numel()))] = num_classes if kind == "no class" else -1
    labels = labels.to(pick([torch.int64, torch.int64, torch.int32, torch.int16]))
    return labels, labels.numel() == 0 or kind not in ("no class", "negative")


def draw_mask(pick, *shape):
    """A mask, often None, sometimes False everywhere."""
    share = pick([None, None, 1.0, 0.6, 0.0])
    return None if share is None else torch.rand(shape, generator=draw(pick(SEEDS))) < share


def spoil_an_argument(pick, arguments, dims):
    """Sometimes makes one tensor of `arguments` (a dictionary) not fit: (arguments, whether it did).

    `dims` names a dimension of each that must not be longer than it is, where there is one.
    """
    names = [name for name, value in arguments.items() if value is not None]
    fault = pick(["none"] * 12 + ["list", "dtype", "scalar", "longer"])
    if fault == "none":
        return arguments, False
    name = pick(names)
    tensor = arguments[name]
    if fault == "list":
        wrong = [1.0]
    elif fault == "dtype":
        wrong = tensor.long() if tensor.is_floating_point() else tensor.float()
    elif fault == "scalar" or name not in dims:
        wrong = torch.zeros((), dtype=tensor.dtype)
    else:
        more = list(tensor.shape)
        more[dims[name]] += 1
        wrong = torch.zeros(more, dtype=tensor.dtype)
    return {**arguments, name: wrong}, True


class Refused(Exception):
    """The call raised the error that the documentation promises."""


def call(function, *args, invalid=False, **kwargs):
    """The result; where the input is `invalid`, insists on an error that names an argument, and raises `Refused`."""
    if not invalid:
        return function(*args, **kwargs)
    with pytest.raises((ValueError, TypeError), match=r"(?s)expected `\w+`.*got"):
        function(*args, **kwargs)
    raise Refused


def assert_finite(*tensors):
    for tensor in tensors:
        assert tensor.isfinite().all(), tensor


def assert_simplex(probabilities, dim=-1):
    assert_finite(probabilities)
    assert (probabilities >= 0).all()
    total = probabilities.double().sum(dim)
    assert_close(total, torch.ones_like(total), rtol=0, atol=TOLERANCE[probabilities.dtype])
