"""Dice by its definition, of images and of volumes; a U-Net in the trainer's two halves."""

from pathlib import Path

import pytest
import torch
from trainer_data import tiny

datasets = pytest.importorskip("segmentation.datasets")
networks = pytest.importorskip("segmentation.networks")
recipes = pytest.importorskip("segmentation.recipe")
scores = pytest.importorskip("segmentation.scores")
state = pytest.importorskip("segmentation.state")
teaching = pytest.importorskip("segmentation.teaching")

NAMES = ("patient1_frame01_slice00", "patient1_frame01_slice01", "patient1_frame12_slice00", "patient2_frame01_slice00")


def samples():
    return [datasets.Sample(Path(f"{name}.png"), None) for name in NAMES]


def test_slices_are_scored_by_volume():
    assert scores.groups_of(samples(), "volume") == ([0, 0, 1, 2], 3)
    assert scores.groups_of(samples(), "image") == ([0, 1, 2, 3], 4)
    assert scores.groups_of(samples(), "none") == ([0, 0, 0, 0], 1)


@pytest.mark.parametrize("kind", ["volume", "image"])
def test_dice_is_two_overlaps_over_both_sizes(kind):
    torch.manual_seed(0)
    predicted, labels = torch.randint(3, (4, 6, 7)), torch.randint(3, (4, 6, 7))
    labels[:, 0], predicted[3], labels[3] = 255, 0, 0  # nobody shows or names class 1 or 2 in the last image
    groups = scores.groups_of(samples(), kind)
    found = scores.Confusions(groups, 3, torch.device("cpu"))
    found.add(predicted[:3], labels[:3])
    found.add(predicted[3:], labels[3:])
    got = scores.scores_of(found.joined(), ["ground", "a", "b"], kind)
    means = []
    for label in (1, 2):
        of_groups = []
        for group in range(groups.count):
            overlap = size = 0
            for image in (number for number, each in enumerate(groups.numbers) if each == group):
                known = labels[image] != 255
                said, true = (predicted[image] == label) & known, (labels[image] == label) & known
                overlap, size = overlap + int((said & true).sum()), size + int(said.sum()) + int(true.sum())
            if size:
                of_groups.append(2 * overlap / size)
        means.append(sum(of_groups) / len(of_groups))
    assert got["dice"] == pytest.approx(sum(means) / 2)
    assert got["dice_by_class"]["a"] == pytest.approx(means[0], abs=1e-4)
    single = scores.Confusions(scores.groups_of(samples(), "none"), 3, torch.device("cpu"))
    single.add(predicted, labels)
    assert scores.scores_of(single.joined(), ["ground", "a", "b"], "none") == {k: got[k] for k in ("miou", "iou")}


def unet(**more):
    pytest.importorskip("monai")
    settings = {"network__architecture": "unet", "network__weights": "auto", "network__width": 4}
    return tiny(methods=("unimatch+anchors+graphs",), **settings | more)


@pytest.mark.parametrize("size", [(32, 48), (45, 61)])
def test_a_unet_speaks_of_every_pixel_and_has_keys_at_a_quarter(size):
    network = state.build(unet(), 4, torch.device("cpu")).model.network.eval()
    found = network(torch.rand(2, 3, *size))
    assert found.logits.shape == (2, 4, *size)
    assert found.embedding.shape == (2, 8, *size)
    assert found.middle.shape == (2, network.middle_dim, -(-size[0] // 4), -(-size[1] // 4))
    assert network.widths == (4, 8, 16, 32, 64)
    assert network.middle_dim == 16 + 32 + 64


def test_a_unet_is_of_the_published_size_and_dropout():
    network = networks.SegmentationNetwork(4, unet(network__width=16, network__feature_dim=16).network)
    weights = sum(each.numel() for each in network.parameters())
    assert weights / 1e6 == pytest.approx(1.9, abs=0.1)
    drops = [module.p for module in network.modules() if isinstance(module, torch.nn.Dropout) and module.p > 0]
    assert drops == pytest.approx([0.05, 0.1, 0.2, 0.3, 0.5])


def test_what_a_unet_cannot_do_is_said():
    with pytest.raises(ValueError, match=r"`anchors.levels` among the encoder's 4, got \[5\]"):
        unet(anchors__keys="initial", anchors__levels=5)


@pytest.mark.parametrize("keys", ["trained", "initial"])
def test_a_unet_is_corrected_at_the_size_of_the_image(keys):
    built = state.build(unet(anchors__keys=keys), 3, torch.device("cpu"))
    images, labels = torch.rand(2, 3, 32, 32), torch.randint(3, (2, 32, 32))
    teaching.update_anchors(built.teacher, images, labels, built.banks.anchors)
    inside = torch.ones(2, 32, 32, dtype=torch.bool)
    inside[:, 28:] = False
    found = teaching.pseudo_label(
        teaching.Method("fixmatch", ("anchors", "graphs")), built.teacher, images, inside, built.banks
    )
    assert found.probabilities.shape == (2, 3, 32, 32)
    torch.testing.assert_close(found.probabilities.sum(1), torch.ones(2, 32, 32))
    assert (found.labels[:, 28:] == 255).all()
    plain = teaching.pseudo_label(teaching.Method("fixmatch"), built.teacher, images, inside, built.banks)
    assert (plain.probabilities - found.probabilities).abs().max() > 0.01
