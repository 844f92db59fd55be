"""Files of weights: what fits is loaded whatever stands before its names; what does not is refused by file."""

import argparse
import re

import pytest
import torch
import trainer_data  # noqa: F401 (puts examples on the path)

weights = pytest.importorskip("segmentation.weights")
smp = pytest.importorskip("segmentation_models_pytorch")


@pytest.fixture(scope="module")
def shallow():
    return smp.encoders.get_encoder("resnet18", weights=None).state_dict()


def load(file):
    encoder = smp.encoders.get_encoder("resnet18", weights=None)
    weights.load_encoder_weights(encoder, file)
    return encoder.state_dict()


def prefixed(prefix, state):
    return {f"{prefix}{key}": value for key, value in state.items()}


@pytest.mark.parametrize(
    "nested",
    [
        lambda state: state,
        lambda state: prefixed("module.", state),
        lambda state: prefixed("_orig_mod.module.", state),
        lambda state: {"state_dict": prefixed("model.encoder.", state), "epoch": 7},
        lambda state: {"network": {"weights": state, "step": 3}},
        lambda state: state | {"fc.weight": torch.zeros(1000, 512)},  # a classifier is no part of an encoder
        lambda state: prefixed("encoder.", state) | {"decoder.conv1.weight": torch.zeros(4)},
        lambda state: {key: value.half() if value.is_floating_point() else value for key, value in state.items()},
    ],
)
def test_weights_load_whatever_stands_before_their_names(tmp_path, shallow, nested):
    torch.save(nested(shallow), tmp_path / "weights.pth")
    loaded = load(tmp_path / "weights.pth")
    for key, value in shallow.items():
        torch.testing.assert_close(loaded[key].float(), value.float(), rtol=1e-3, atol=1e-4)


def test_safetensors_load(tmp_path, shallow):
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file({key: value.contiguous() for key, value in shallow.items()}, tmp_path / "model.safetensors")
    assert torch.equal(load(tmp_path / "model.safetensors")["conv1.weight"], shallow["conv1.weight"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            lambda s: smp.encoders.get_encoder("resnet34", weights=None).state_dict(),
            "another encoder, 80 of its entries",
        ),
        (
            lambda s: s | {"layer1.2.conv1.weight": torch.zeros(64, 64, 3, 3)},
            "1 of its entries would go unused: layer1",
        ),
        (
            lambda s: s | {"conv1.weight": torch.zeros(3, 3)},
            r"shapes differ: conv1\.weight \(3, 3\) for \(64, 3, 7, 7\)",
        ),
        (lambda s: {"conv1.weight": s["conv1.weight"]}, r"lacks \d+ of \d+ entries"),
        (lambda s: s | {"bn1.weight": torch.full((64,), torch.nan)}, r"NaN or Inf in bn1\.weight"),
        (
            lambda s: {"student": s, "teacher": {k: v + 1 for k, v in s.items()}},
            r"student: \*, teacher: \*; save the one",
        ),
        (lambda s: {"state_dict": s, "args": argparse.Namespace(lr=1)}, "objects beside tensors"),
        (lambda s: [1, 2], "holds a list, no dict of tensors"),
        (lambda s: {"epoch": 3}, "no tensors by name"),
        (lambda s: b"<!DOCTYPE html><html>quota exceeded</html>", "is a web page"),
        (lambda s: b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "pointer of Git LFS"),
        (lambda s: b"", "is empty"),
    ],
)
def test_what_does_not_fit_is_refused_by_the_name_of_its_file(tmp_path, shallow, content, message):
    file = tmp_path / "weights.pth"
    made = content(shallow)
    file.write_bytes(made) if isinstance(made, bytes) else torch.save(made, file)
    with pytest.raises(ValueError, match=message) as caught:
        load(file)
    assert "weights.pth" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_of_the_weights_is_found(tmp_path, shallow):
    """torch reads the archive without its checksums, and would train from the wrong number."""
    file = tmp_path / "weights.pth"
    torch.save(shallow, file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.pth: .*checksum"):
        load(file)


@pytest.mark.parametrize("name", ["resnet", "tu-resnet_of_mine", ""])
def test_an_unknown_backbone_is_named_before_anything_is_fetched(name):
    networks, recipes = pytest.importorskip("segmentation.networks"), pytest.importorskip("segmentation.recipe")
    with pytest.raises(ValueError, match=re.escape(f"known to smp or (tu-...) timm, got {name!r}")):
        networks.SegmentationNetwork(3, recipes.Network(backbone=name))
