"""Images whose sides the network's stride does not divide: what is said of a cell is said of the pixels below it."""

from types import SimpleNamespace

import pytest
import torch
import trainer_data  # noqa: F401 (finds the trainer)
from torch.nn import functional as F

from graphcorrect import RefinedLabels
from graphcorrect.labels import labels_of_nodes

deployment = pytest.importorskip("segmentation.deployment")
models = pytest.importorskip("segmentation.model")
networks = pytest.importorskip("segmentation.networks")
teaching = pytest.importorskip("segmentation.teaching")


@pytest.mark.parametrize("size", [(49, 49), (49, 64), (64, 41), (321, 321), (5, 64), (3, 2)])
@pytest.mark.parametrize("stride", [1, 4, 8])
def test_a_map_is_enlarged_by_the_stride_that_made_it(size, stride):
    grid = [-(-side // stride) for side in size]
    maps = torch.rand(1, 2, *grid)
    whole = F.interpolate(maps, scale_factor=float(stride), mode="bilinear")
    torch.testing.assert_close(networks.upsample(maps, size), whole[..., : size[0], : size[1]])


def test_labels_meet_the_cells_that_have_seen_them():
    """Anchors, prototypes and graphs: 65 pixels are 17 cells of 4, the last of which has seen one of them."""
    labels = (torch.arange(65) // 4).expand(1, 33, 65)  # the column of the cell
    maps, images = torch.zeros(1, 17, 9, 17), torch.zeros(1, 3, 33, 65)
    held = []

    def update(features, given, **_):
        held.append(labels_of_nodes(features, given, 17).view(9, 17))

    anchors = SimpleNamespace(has_key_encoder=True, keys=lambda *_: maps, update=update)
    teaching.update_anchors(None, images, labels, anchors)
    teaching.update_anchors(None, images, labels.repeat_interleave(2, 1).repeat_interleave(2, 2), anchors)
    banks = SimpleNamespace(prototypes=SimpleNamespace(update=update, prototypes=None, is_initialized=None))
    correction = lambda refined, given, **_: update(maps, given) or SimpleNamespace(total=None)  # noqa: E731
    teaching._graph_losses(correction, RefinedLabels((maps, maps), (maps, maps)), labels, banks)
    expected = torch.arange(17).expand(9, 17).clone()
    expected[-1] = expected[:, -1] = 255  # most of these lies beyond the image
    assert len(held) == 4
    assert all(torch.equal(found, expected) for found in held)


def test_a_cell_takes_part_where_its_middle_is_no_padding():
    inside = (torch.arange(65) < 62).expand(1, 33, 65)
    output = networks.NetworkOutput(torch.zeros(1, 2, 9, 17), torch.zeros(1, 2, 9, 17), None)
    assert models._mask_of(inside, output)[0, 0].tolist() == [True] * 15 + [False] * 2
    inside = (torch.arange(65) < 63).expand(1, 33, 65)
    assert models._mask_of(inside, output)[0, 0].tolist() == [True] * 16 + [False]


def test_an_answer_that_is_averaged_over_cells_stays_in_its_place():
    said = torch.arange(65).expand(1, 2, 33, 65) / 100 + 0.1
    output = networks.NetworkOutput(torch.zeros(1, 2, 9, 17), torch.zeros(1, 2, 9, 17), None)
    back = networks.upsample(deployment.saying(output, said).logits.exp(), (33, 65))
    # Edges are flattened, by a cell
    torch.testing.assert_close(back[..., 8:56], said[..., 8:56], atol=1e-3, rtol=0)
