"""Probabilities are read as they were written, in every form and precision; what is none is refused."""

import re

import numpy as np
import pytest
import torch

from graphcorrect.files import read_probabilities, write_probabilities
from graphcorrect.files.arrays import read_array
from graphcorrect.files.faults import FileFault, reading

safetensors = pytest.importorskip("safetensors.torch")
ENDINGS = (".npy", ".npz", ".safetensors")


def some(shape=(3, 5, 7)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).softmax(0)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 5e-4), (torch.float32, 3e-7), (torch.float64, 3e-7)])
def test_probabilities_are_read_as_they_were_written(tmp_path, ending, dtype, tolerance):
    path = tmp_path / f"a{ending}"
    write_probabilities(path, some(), dtype=dtype)
    found = read_probabilities(path)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, some(), atol=tolerance, rtol=0)
    torch.testing.assert_close(found.sum(0), torch.ones(5, 7))
    assert read_array(path).dtype == torch.empty(0, dtype=dtype).numpy().dtype


def test_half_precision_halves_the_file(tmp_path):
    write_probabilities(tmp_path / "half.npy", some((21, 64, 64)), dtype=torch.float16)
    write_probabilities(tmp_path / "whole.npy", some((21, 64, 64)))
    half, whole = ((tmp_path / f"{name}.npy").stat().st_size for name in ("half", "whole"))
    assert half < 0.51 * whole


def test_bfloat16_is_read(tmp_path):
    safetensors.save_file({"p": some().bfloat16()}, tmp_path / "a.safetensors")
    torch.testing.assert_close(read_probabilities(tmp_path / "a.safetensors"), some(), atol=4e-3, rtol=0)


def test_channels_may_come_last(tmp_path):
    safetensors.save_file({"p": some().permute(1, 2, 0).contiguous()}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="got classes last"):
        read_probabilities(tmp_path / "a.safetensors")
    torch.testing.assert_close(read_probabilities(tmp_path / "a.safetensors", channels="last"), some())


def test_a_tensor_on_its_way_through_autograd_is_written(tmp_path):
    write_probabilities(tmp_path / "a.npy", some().requires_grad_().transpose(1, 2))
    assert read_probabilities(tmp_path / "a.npy").shape == (3, 7, 5)


REFUSED = {
    "cut": (lambda content: content[: len(content) // 2], r"\S"),
    "empty": (lambda content: b"", "is empty"),
    "text": (lambda content: b"no array at all, and long enough to be read as one\n" * 4, r"\S"),
    "zeros": (lambda content: bytes(len(content)), r"\S"),
    "web page": (lambda content: b"<!DOCTYPE html><html>", "web page"),
    "git lfs": (lambda content: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "huge header": (lambda content: b"\xff" * 8 + content[8:], r"\S"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_broken_file_is_named(tmp_path, ending, name):
    spoil, words = REFUSED[name]
    path = tmp_path / f"a{ending}"
    write_probabilities(path, some())
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(FileFault, match=words) as caught:
        read_probabilities(path)
    assert str(caught.value).startswith(f"{path}: ")
    with pytest.raises(FileFault) as said, reading(path):  # as the command has it
        read_probabilities(path)
    assert str(said.value) == str(caught.value)


def test_a_header_that_claims_more_than_there_is_memory_is_named(tmp_path):
    with (tmp_path / "a.npy").open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (3, 1000000, 1000000)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(FileFault) as caught:
        read_probabilities(tmp_path / "a.npy")
    assert str(caught.value).startswith(f"{tmp_path / 'a.npy'}: ")


def test_what_holds_no_probabilities_is_named(tmp_path):
    np.save(tmp_path / "a.npy", np.full((3, 4, 5), 2.0))
    with pytest.raises(FileFault, match="a.npy: expected probabilities, at least 0") as caught:
        read_probabilities(tmp_path / "a.npy")
    assert str(caught.value).count("a.npy") == 1
    with pytest.raises(ValueError, match="expected `channels` to be one of 'first', 'last', got 'lats'"):
        read_probabilities(tmp_path / "a.npy", channels="lats")


def test_what_is_pickled_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return print, ("never",)

    np.save(tmp_path / "a.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_probabilities(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"a": some(), "b": some()}, "expected one array, got 2: a, b"),
        ({}, "expected one array, got 0"),
        ({"a": torch.zeros(3, 5, 7, dtype=torch.int64)}, "expected floating point of shape (channels, height, width)"),
        ({"a": torch.zeros(5, 7)}, "of a sigmoid save both classes"),
        ({"a": torch.full((3, 5, 7), torch.nan)}, "expected finite values, got 105 NaN or Inf"),
        ({"a": torch.ones(3, 5, 7)}, "save the softmax of logits"),
    ],
)
def test_what_are_no_probabilities_is_refused(tmp_path, tensors, words):
    safetensors.save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=re.escape(words)):
        read_probabilities(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("name", "probabilities", "options", "words"),
    [
        ("a.pt", some(), {}, "`path` to end in .npy, .npz, .safetensors, got a.pt"),
        ("a.npy", some()[0], {}, "`probabilities` of shape (C, H, W)"),
        ("a.npy", torch.ones(3, 5, 7), {}, "take the softmax"),
        ("a.npy", -some(), {}, "take the softmax"),
        ("a.npy", torch.zeros(3, 5, 7, dtype=torch.int64), {}, "to be floating point"),
        ("a.npy", some(), {"dtype": torch.bfloat16}, "`dtype` to be torch.float16"),
    ],
)
def test_what_are_no_probabilities_is_not_written(tmp_path, name, probabilities, options, words):
    with pytest.raises((ValueError, TypeError), match=re.escape(words)):
        write_probabilities(tmp_path / name, probabilities, **options)
    assert not (tmp_path / name).exists()
