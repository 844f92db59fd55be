"""One battery for every module: what holds for all of them, whatever they compute."""

import copy
import io
import pickle

import torch


def tensors_of(result):
    """The tensors of a result, whatever nests them; of a graph its matrix."""
    if hasattr(result, "to_dense") and not isinstance(result, torch.Tensor):
        return [result.to_dense()]
    if isinstance(result, tuple | list):
        return [tensor for part in result for tensor in tensors_of(part)]
    return [result] if isinstance(result, torch.Tensor) else []


def same(one, other, tolerance=0.0):
    ones, others = tensors_of(one), tensors_of(other)
    assert ones, "a result without tensors compares nothing"
    for mine, theirs in zip(ones, others, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


def check_determinism(layer, inputs):
    same(layer(*inputs), layer(*inputs))


def check_inputs_stay_unmodified(layer, inputs):
    before = [tensor.clone() for tensor in tensors_of(inputs)]
    layer(*inputs)
    same(tensors_of(inputs), before)


def check_training_and_evaluation_agree(layer, inputs):
    same(layer.train()(*inputs), layer.eval()(*inputs))


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


def check_compiles(layer, inputs):
    """torch.compile's tracing, without a compiler behind it; graph breaks are allowed, other answers are not."""
    torch._dynamo.reset()
    same(torch.compile(layer, backend="eager")(*inputs), layer(*inputs), tolerance=1e-6)


def check_noncontiguous_inputs(layer, inputs):
    """Strided views and expanded tensors give what their copies give."""
    strided = [t.repeat_interleave(2, -1)[..., ::2] if isinstance(t, torch.Tensor) else t for t in inputs]
    assert not all(t.is_contiguous() for t in strided if isinstance(t, torch.Tensor))
    same(layer(*strided), layer(*inputs), tolerance=1e-6)
