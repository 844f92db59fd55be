"""The trainer's parts: weights give the published features, files are read as they are, faults are found at once."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

datasets = pytest.importorskip("segmentation.datasets")
digits = pytest.importorskip("segmentation.digits")
networks = pytest.importorskip("segmentation.networks")
transforms = pytest.importorskip("segmentation.transforms")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A few embedded scenes in VOC's layout."""
    folder = tmp_path_factory.mktemp("digits") / "voc"
    digits.write_digit_scenes(folder, num_train=8, num_val=4, seed=3)
    return folder


def open_scenes(folder, out, labeled="2"):
    return datasets.open_data(str(folder), labeled, 0, out)


def test_the_backbone_computes_what_the_published_one_does():
    published = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0").eval()
    published.load_state_dict(torch.load(networks.lite0_weights(), map_location="cpu", weights_only=True))
    network = networks.SegmentationNetwork(11, encoder_depth=5).eval()
    image = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        x = published._swish(published._bn0(published._conv_stem((255 * image - 127) / 128)))
        taps = []
        for block in published._blocks:
            x = block(x)
            taps.append(x)
        levels = network.encoder((image - network.mean) / network.std)
    # Beyond 1/8 the encoder is dilated; up to there both see the same pixels.
    for level, tap in ((levels[2], taps[2]), (levels[3], taps[4])):
        torch.testing.assert_close(level, tap, rtol=1e-4, atol=1e-4)


def test_network_outputs_have_the_strides_they_promise():
    network = networks.SegmentationNetwork(7, 32, weights="none").eval()
    with torch.no_grad():
        out = network(torch.rand(2, 3, 61, 90))
    assert out.logits.shape == (2, 7, 16, 23)
    assert out.embedding.shape == (2, 32, 16, 23)
    assert out.middle.shape == (2, network.middle_dim, 8, 12)


def test_scenes_are_written_in_vocs_layout_and_read_by_index(scenes, tmp_path):
    data = open_scenes(scenes, tmp_path)
    datasets.check(data)
    assert (len(data.labeled), len(data.unlabeled), len(data.test)) == (2, 6, 4)
    assert len(data.class_names) == 11
    seen = torch.cat([datasets.read_mask(sample.mask).unique() for sample in data.labeled + data.unlabeled]).unique()
    assert set(seen.tolist()) <= {*range(11), 255}
    assert {0, 255} < set(seen.tolist())
    with Image.open(data.test[0].mask) as mask:
        assert mask.mode == "P"


def test_a_drawn_split_is_saved_and_read_back(scenes, tmp_path):
    drawn = open_scenes(scenes, tmp_path)
    again = open_scenes(scenes, tmp_path / "other", labeled=str(tmp_path / "labeled.txt"))
    assert [sample.image for sample in again.labeled] == [sample.image for sample in drawn.labeled]
    assert {sample.image for sample in again.unlabeled} == {sample.image for sample in drawn.unlabeled}


def test_every_fault_of_a_data_set_is_listed_at_once(tmp_path):
    folder = tmp_path / "voc"
    digits.write_digit_scenes(folder, num_train=6, num_val=4, seed=1)
    data = open_scenes(folder, tmp_path, labeled="3")
    gone, wrong_id, wrong_size = (sample.mask for sample in data.labeled)
    gone.unlink()
    mask = np.array(Image.open(wrong_id))
    mask[0, 0] = 37
    Image.fromarray(mask).save(wrong_id)
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(wrong_size)
    data.test[0].image.write_bytes(data.test[0].image.read_bytes()[:100])
    with pytest.raises(ValueError, match="4 fault") as caught:
        datasets.check(data)
    for fault in (
        f"{gone}: missing",
        f"{wrong_id}: ids [37]",
        f"{wrong_size}: is (5, 6)",
        f"{data.test[0].image}: unr",
    ):
        assert fault in str(caught.value)


def test_a_strong_view_moves_no_pixel():
    images = torch.rand(2, 3, 32, 48)
    images[:, :, :, 24:] *= 0.05  # dark right half
    strong = transforms.StrongView((0.1, 0.2))(images)
    assert strong.shape == images.shape
    assert (strong[..., :22].mean((1, 2, 3)) > strong[..., 26:].mean((1, 2, 3))).all()


def test_cutmix_moves_pixels_with_their_labels():
    images = torch.zeros(4, 3, 16, 24) + torch.arange(4.0)[:, None, None, None]
    labels = torch.arange(4)[:, None, None].expand(4, 16, 24).clone()
    confidence = labels.float() / 4
    mixed, mixed_labels, mixed_confidence = transforms.cutmix(images, labels, confidence, probability=1.0)
    assert (mixed_labels != labels).any()
    assert torch.equal(mixed[:, 0], mixed_labels.float())
    assert torch.equal(mixed_confidence, mixed_labels.float() / 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "--steps to be at least 1, got 0"),
        (["--ema", "1.5"], r"--ema in \[0, 1\], got 1.5"),
        (["--scale", "2", "1"], "--scale as two numbers"),
    ],
)
def test_a_bad_option_is_named_before_any_work(arguments, message, capsys):
    train_voc = pytest.importorskip("train_voc")
    with pytest.raises(SystemExit):
        train_voc.parse(arguments)
    assert re.search(message, capsys.readouterr().err)
