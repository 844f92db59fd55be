"""One battery for every layer and function: what holds for all of them, whatever they compute."""

import contextlib
import copy
import io
import pickle
import warnings

import pytest
import torch
from torch import nn

# Half precision is float32 inside, so that what remains is the rounding of the result.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}

compiles = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6),
    reason="torch.compile, .export and .func as of torch 2.6",
)


def tensors_of(result):
    """The tensors of a result, whatever nests them; of a graph its matrix."""
    if hasattr(result, "to_dense") and not isinstance(result, torch.Tensor):
        return [result.to_dense()]
    if isinstance(result, tuple | list):
        return [tensor for part in result for tensor in tensors_of(part)]
    return [result] if isinstance(result, torch.Tensor) else []


def same(one, other, tolerance=0.0, **options):
    ones, others = tensors_of(one), tensors_of(other)
    assert ones, "a result without tensors compares nothing"
    for mine, theirs in zip(ones, others, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance, **options)


def mapped(inputs, change):
    """`inputs` with `change` made to each of their floating point tensors."""
    if isinstance(inputs, torch.Tensor):
        return change(inputs) if inputs.is_floating_point() else inputs
    if hasattr(inputs, "_fields"):
        return type(inputs)(*(mapped(part, change) for part in inputs))
    if isinstance(inputs, tuple | list):
        return tuple(mapped(part, change) for part in inputs)
    return inputs


def values_and_gradients(layer, inputs):
    """The result, and the gradients of the sum of squares of its floating tensors for every floating input."""
    leaves = []

    def leaf(tensor):
        leaves.append(tensor.detach().clone().requires_grad_())
        return leaves[-1]

    result = layer(*mapped(inputs, leaf))
    differentiable = [t for t in tensors_of(result) if t.requires_grad]
    if not differentiable:
        return result, []
    total = sum(t.double().square().sum() for t in differentiable)
    return result, list(torch.autograd.grad(total, leaves, allow_unused=True))


def gradients(layer, inputs):
    return values_and_gradients(layer, inputs)[1]


def same_gradients(ones, others, tolerance=1e-5):
    for mine, wanted in zip(ones, others, strict=True):
        assert (mine is None) == (wanted is None)
        if wanted is not None:
            same(mine, wanted, tolerance)


def check_determinism(layer, inputs):
    same(layer(*inputs), layer(*inputs))


@contextlib.contextmanager
def deterministic_algorithms():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def check_deterministic_mode(layer, inputs):
    """torch's deterministic mode is no obstacle, and changes neither values nor gradients beyond rounding."""
    expected, expected_gradients = layer(*inputs), gradients(layer, inputs)
    with deterministic_algorithms():
        same(layer(*inputs), layer(*inputs))
        same(layer(*inputs), expected, tolerance=1e-6)
        once, again = gradients(layer, inputs), gradients(layer, inputs)
    same_gradients(once, again, tolerance=0.0)
    same_gradients(once, expected_gradients)


def check_inputs_stay_unmodified(layer, inputs):
    before = [tensor.clone() for tensor in tensors_of(inputs)]
    layer(*inputs)
    same(tensors_of(inputs), before)


def check_training_and_evaluation_agree(layer, inputs):
    same(layer.train()(*inputs), layer.eval()(*inputs))


def check_dtype(layer, inputs, dtype):
    """Inputs of `dtype` give what the same numbers give in float64, up to the rounding of the result."""
    narrow = mapped(inputs, lambda tensor: tensor.to(dtype))
    wide = mapped(narrow, lambda tensor: tensor.double())
    result, expected = tensors_of(layer(*narrow)), tensors_of(layer(*wide))
    same([t.double() for t in result], [t.double() for t in expected], TOLERANCES[dtype])
    for tensor in result:
        assert not tensor.is_floating_point() or tensor.dtype in (dtype, torch.promote_types(dtype, torch.float32))
    for mine, wanted in zip(gradients(layer, narrow), gradients(layer, wide), strict=True):
        assert (mine is None) == (wanted is None)
        if mine is not None:
            scale = wanted.abs().max().clamp_min(1)
            same(mine.double() / scale, wanted / scale, 4 * TOLERANCES[dtype])


def check_autocast(layer, inputs, dtype):
    """Under autocast the result is that of full precision, and no less."""
    with torch.autocast(tensors_of(inputs)[0].device.type, dtype):
        result = layer(*inputs)
    same(result, layer(*inputs), tolerance=1e-6)


def on_device(inputs, device):
    """`inputs` with all of their tensors on a device."""
    if isinstance(inputs, torch.Tensor):
        return inputs.to(device)
    if hasattr(inputs, "_fields"):
        return type(inputs)(*(on_device(part, device) for part in inputs))
    return tuple(on_device(part, device) for part in inputs) if isinstance(inputs, tuple | list) else inputs


def check_device(layer, inputs, device):
    """A device gives what the CPU gives, values and gradients, and gives it there."""
    expected, wanted = values_and_gradients(layer, inputs)
    there = on_device(inputs, device)
    result, mine = values_and_gradients(copy.deepcopy(layer).to(device), there)
    if tensors_of(inputs):
        assert {tensor.device.type for tensor in tensors_of(result)} == {device}
    same(on_device(tensors_of(result), "cpu"), tensors_of(expected), 2e-5)
    same_gradients(on_device(mine, "cpu"), wanted, 2e-5)


@contextlib.contextmanager
def no_waiting():
    """A wait for the GPU is an error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the mode does not find them all
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def check_state_dict_round_trip(layer, fresh, inputs):
    """A fresh layer that loads the file answers as the old one; the file is safe to load."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    same(fresh(*inputs), layer(*inputs))


def check_copies(layer, inputs):
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        same(twin(*inputs), layer(*inputs))
        assert repr(twin) == repr(layer)


def check_compiles(layer, inputs, *, whole=True, backend="aot_eager"):
    """torch.compile's tracing and derivatives, without a code generator behind them; `whole`: in one graph."""
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend=backend, fullgraph=whole)
    (result, mine), (expected, wanted) = (values_and_gradients(each, inputs) for each in (compiled, layer))
    same(result, expected, tolerance=1e-6)
    same_gradients(mine, wanted)


def check_noncontiguous_inputs(layer, inputs):
    """Strided views and expanded tensors give what their copies give."""
    strided = [t.repeat_interleave(2, -1)[..., ::2] if isinstance(t, torch.Tensor) else t for t in inputs]
    assert not all(t.is_contiguous() for t in strided if isinstance(t, torch.Tensor))
    same(layer(*strided), layer(*inputs), tolerance=1e-6)


def check_channels_last_inputs(layer, inputs):
    """Images laid out pixel by pixel give what images laid out channel by channel give."""
    moved = mapped(inputs, lambda t: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t)
    assert any(not t.is_contiguous() for t in tensors_of(moved))
    same(layer(*moved), layer(*inputs), tolerance=1e-6)
    same_gradients(gradients(layer, moved), gradients(layer, inputs))


class Function(nn.Module):
    """A function with its settings, so that the battery takes it for a layer."""

    def __init__(self, function, **settings):
        super().__init__()
        self.function, self.settings = function, settings

    def forward(self, *inputs):
        return self.function(*inputs, **self.settings)

    def extra_repr(self):
        return f"{self.function.__name__}, {self.settings}"
