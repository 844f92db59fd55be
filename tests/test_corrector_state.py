"""What a corrector leaves in a state dict, in a folder and on the hub, and what comes back of it."""

import copy
import os
import re
from pathlib import Path

import pytest
import torch
from small_scenes import CLASSES, Levels, fitted_corrector, scenes
from torch import nn

from graphcorrect import SegmentationCorrector


@pytest.fixture(scope="module")
def corrector():
    return fitted_corrector()


def test_the_state_holds_bank_settings_and_the_name_of_the_encoder(corrector, tmp_path):
    torch.save(corrector.state_dict(), tmp_path / "state.pt")
    other = SegmentationCorrector(CLASSES, Levels(), magnifications=(1.0,), preset="fast", guided=False)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    images, logits = scenes(2)[0], torch.randn(2, CLASSES, 9, 12)
    expected = corrector(images, logits=logits).probabilities
    assert torch.equal(other(images, logits=logits).probabilities, expected)
    assert torch.equal(copy.deepcopy(corrector)(images, logits=logits).probabilities, expected)
    with pytest.raises(ValueError, match="a state of `num_classes` 4, got 3"):
        SegmentationCorrector(4, Levels()).load_state_dict(corrector.state_dict())
    with pytest.raises(RuntimeError, match="key_encoder.encoder"):
        SegmentationCorrector(CLASSES, nn.Conv2d(3, 2, 8, 8)).load_state_dict(corrector.state_dict())
    empty = SegmentationCorrector(CLASSES, Levels())
    other.load_state_dict(empty.state_dict())
    assert other.bank_ is None


def test_an_encoder_of_ones_own_may_have_moved_to_another_file(corrector):
    class Moved(Levels):
        pass

    other = SegmentationCorrector(CLASSES, Moved())
    other.load_state_dict(corrector.state_dict())
    images, logits = scenes(2)[0], torch.randn(2, CLASSES, 9, 12)
    assert torch.equal(other(images, logits=logits).probabilities, corrector(images, logits=logits).probabilities)


def test_levels_of_a_timm_encoder_are_compared_and_counted():
    pytest.importorskip("timm")
    settings = {"pretrained": False, "magnifications": (1.0,)}
    name = "timm:tf_efficientnet_lite0"
    one, other = (SegmentationCorrector(2, name, levels=levels, **settings) for levels in ((1, 3), (-2, 2)))
    with pytest.raises(ValueError, match=r"a state of `levels` \[2, 3\], got \[1, 3\]"):
        other.load_state_dict(one.state_dict())
    assert other.key_encoder.encoder.dims == (40, 112)
    with pytest.raises(ValueError, match=rf"a state of `encoder` '{name}', got 'test_corrector_state"):
        one.load_state_dict(SegmentationCorrector(2, Own()).state_dict())
    with pytest.raises(ValueError, match=r"`levels` among the 5 maps of the encoder, got \(5,\)"):
        SegmentationCorrector(2, name, levels=(5,), **settings)


class Own(nn.Module):
    def forward(self, images):
        return images


def test_slots_that_are_empty_are_not_saved_and_stay_open(corrector, tmp_path):
    torch.save(corrector.state_dict(), tmp_path / "state.pt")
    most = int(corrector.bank_.counts.max())
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["bank_.features"].shape[1] == state["bank_.priority"].shape[1] == most < 10_000
    assert (tmp_path / "state.pt").stat().st_size < 2 * corrector.bank_.features[:, :most].nbytes
    other = SegmentationCorrector(CLASSES, Levels())
    other.load_state_dict(state)
    assert other.bank_.capacity_per_class == 10_000
    for each in ("features", "priority", "num_seen", "num_updates"):
        assert torch.equal(getattr(other.bank_, each), getattr(corrector.bank_, each))
    images, masks = scenes(2)
    other.fit(images, masks)
    assert torch.equal(other.bank_.features, copy.deepcopy(corrector).fit(images, masks).bank_.features)
    holder = nn.ModuleDict({"inner": corrector})
    again = nn.ModuleDict({"inner": SegmentationCorrector(CLASSES, Levels())})
    again.load_state_dict(holder.state_dict())
    assert torch.equal(again["inner"].bank_.features, corrector.bank_.features)


@pytest.mark.parametrize("name", ["./nowhere", "a/b/c", "/nowhere/at all", Path("nowhere")])
def test_a_folder_that_is_not_there_is_named_before_the_hub_is_asked(name):
    pytest.importorskip("huggingface_hub")
    expected = f"expected `name` to be a folder, or a repository such as 'user/name', got {str(name)!r}"
    with pytest.raises(ValueError, match=re.escape(expected)):
        SegmentationCorrector.from_pretrained(name)


def test_a_folder_of_the_hub_comes_back(corrector, tmp_path):
    pytest.importorskip("huggingface_hub")
    images, logits = scenes(2)[0], torch.randn(2, CLASSES, 9, 12)
    corrector.save_pretrained(tmp_path / "saved")
    card = (tmp_path / "saved/README.md").read_text(encoding="utf-8")
    assert "SegmentationCorrector.from_pretrained(" in card
    assert "More Information Needed" not in card
    assert (tmp_path / "saved/model.safetensors").is_file()
    other = SegmentationCorrector.from_pretrained(tmp_path / "saved", encoder=Levels())
    assert torch.equal(other(images, logits=logits).probabilities, corrector(images, logits=logits).probabilities)
    with pytest.raises(ValueError, match="expected `encoder`, as the saved corrector had one"):
        SegmentationCorrector.from_pretrained(tmp_path / "saved")


@pytest.mark.parametrize("given", [{}, {"encoder": Levels()}])
@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("config.json", None, "has no config.json"),
        ("model.safetensors", None, "has no model.safetensors"),
        ("config.json", b"{", "has a damaged config.json (Expecting"),
        ("config.json", b"\xff", "has a damaged config.json ("),
        ("config.json", b"3", "has a damaged config.json ("),
        ("config.json", b'{"hidden": 3}', "is of another kind: its config.json has no num_classes"),
        ("model.safetensors", b"", "has a damaged model.safetensors ("),
        ("model.safetensors", 0.5, "has a damaged model.safetensors ("),
    ],
)
def test_why_a_folder_holds_no_corrector_is_said(corrector, tmp_path, given, name, content, reason):
    pytest.importorskip("huggingface_hub")
    corrector.save_pretrained(tmp_path)
    path = tmp_path / name
    whole = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(whole[: int(content * len(whole))] if isinstance(content, float) else content)
    with pytest.raises(ValueError, match=rf"save_pretrained, .* got '{tmp_path}', which {re.escape(reason)}"):
        SegmentationCorrector.from_pretrained(tmp_path, **given)


def test_another_encoder_than_the_saved_one_is_named(tmp_path):
    pytest.importorskip("huggingface_hub")
    SegmentationCorrector(CLASSES, nn.Conv2d(3, 4, 8, 8)).save_pretrained(tmp_path)
    expected = f"expected `encoder` to be that of the corrector in '{tmp_path}', got another: size mismatch for key_enc"
    with pytest.raises(ValueError, match=re.escape(expected)):
        SegmentationCorrector.from_pretrained(tmp_path, encoder=nn.Conv2d(3, 5, 8, 8))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_all_files_of_a_saved_corrector_are_readable_as_the_umask_says(corrector, tmp_path):
    pytest.importorskip("huggingface_hub")
    before = os.umask(0o027)
    try:
        corrector.save_pretrained(tmp_path / "saved")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "saved").iterdir()}
    assert modes == dict.fromkeys(("README.md", "config.json", "model.safetensors"), 0o640)


def test_an_encoder_of_timm_comes_back_without_its_weights_file(tmp_path):
    timm = pytest.importorskip("timm")
    pytest.importorskip("huggingface_hub")
    torch.manual_seed(3)
    file = tmp_path / "weights.pt"
    torch.save(timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict(), file)
    corrector = SegmentationCorrector(2, "timm:tf_efficientnet_lite0", weights=file, magnifications=(1.0,))
    images, masks = torch.rand(1, 3, 48, 64), torch.randint(2, (1, 48, 64))
    corrector.fit(images, masks)
    assert corrector.bank_.feature_dim == 40 + 112
    corrector.save_pretrained(tmp_path / "saved")
    file.unlink()
    other = SegmentationCorrector.from_pretrained(tmp_path / "saved")
    logits = torch.randn(1, 2, 12, 16)
    assert torch.equal(other(images, logits=logits).probabilities, corrector(images, logits=logits).probabilities)


@pytest.mark.filterwarnings("ignore:Positional args")
def test_a_prefix_by_its_place_is_taken_as_by_its_name():
    corrector = fitted_corrector()
    found = corrector.state_dict({}, "part.")
    assert list(found) == list(corrector.state_dict(prefix="part."))


def test_classes_are_balanced_as_they_are_in_the_labeled_images_unless_somebody_says_so():
    assert fitted_corrector().bank_.balance is None
    corrector = fitted_corrector(bank={"balance": 1.0, "strength": 0.5})
    assert (corrector.bank_.balance, corrector.bank_.strength) == (1.0, 0.5)
    copied = SegmentationCorrector(CLASSES, Levels())
    copied.load_state_dict(fitted_corrector().state_dict())
    assert (copied.bank_.balance, copied.bank_.strength) == (None, 1.2)
