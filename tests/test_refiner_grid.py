"""Anchors are looked up on the grid of their keys, whatever grid the graphs have."""

import pytest
import torch
import torch.nn.functional as F

from graphcorrect import AnchorBank, DualGraphRefiner, SegmentationCorrector
from graphcorrect.nodes import pool_maps
from graphcorrect.refiner_grid import to_grid


@pytest.fixture
def anchors():
    bank = AnchorBank(3, 4)
    bank.update(torch.randn(60, 4), torch.randint(3, (60,)))
    return bank


def normalized(values):
    values = values.clamp_min(0)
    return values / values.sum(1, keepdim=True)


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
def test_keys_are_not_averaged_for_graphs_of_fewer_nodes(anchors, masked):
    features, logits = torch.randn(2, 4, 8, 12), torch.randn(2, 3, 8, 12)
    mask = torch.rand(2, 8, 12) < 0.7 if masked else None
    out = DualGraphRefiner(3, 4, num_rounds=0, max_nodes=24)(features, logits, anchors=anchors, mask=mask)
    expected = anchors.correct(logits.softmax(1), features)
    if masked:
        expected = torch.where(mask[:, None], expected, logits.softmax(1))
    torch.testing.assert_close(out.soft_labels, expected)


def test_cells_of_two_grids_that_overlap_at_the_edge_of_a_mask_change_nothing_inside(anchors):
    """13 and 7 cells a side: some finer cells lie in two of the coarser ones."""
    features, logits, mask = torch.randn(1, 4, 13, 13), torch.randn(1, 3, 26, 26), torch.zeros(1, 26, 26).bool()
    mask[..., 4:20, 15:] = True
    fine, coarse = (
        DualGraphRefiner(3, 4, num_rounds=0, max_nodes=most)(features, logits, anchors=anchors, mask=mask)
        for most in (169, 49)
    )
    torch.testing.assert_close(coarse.soft_labels, fine.soft_labels)


def test_the_look_up_has_the_grid_of_the_keys_between_those_of_graphs_and_labels(anchors):
    features, keys, logits = torch.randn(1, 4, 4, 6), torch.randn(1, 4, 8, 12), torch.randn(1, 3, 16, 24)
    refiner = DualGraphRefiner(3, 4, num_rounds=0)
    out = refiner(features, logits, anchors=anchors, anchor_features=keys)
    fine = pool_maps(logits.softmax(1), (8, 12))
    change = F.interpolate(anchors.correct(fine, keys) - fine, size=(16, 24), mode="bilinear")
    torch.testing.assert_close(out.soft_labels, normalized(logits.softmax(1) + change))


def test_graphs_begin_with_what_the_look_up_found_and_add_their_own_change(anchors):
    features, logits = torch.randn(1, 4, 8, 12), torch.randn(1, 3, 8, 12)
    refiner = DualGraphRefiner(3, 4, num_neighbors=5, max_nodes=24).eval()
    looked_up = anchors.correct(logits.softmax(1), features)
    start = pool_maps(looked_up, (4, 6))
    grid = to_grid(features, logits.softmax(1), None, anchors, features, 24)
    torch.testing.assert_close(grid.start, start)
    rounds, _ = refiner._refine_nodes(*grid.nodes())
    for refined, found in zip(rounds, refiner(features, logits, anchors=anchors).probabilities[1:], strict=True):
        change = F.interpolate(grid.maps(refined) - start, size=(8, 12), mode="bilinear")
        torch.testing.assert_close(found, normalized(looked_up + change))
        assert change.abs().amax() > 1e-3


@pytest.mark.parametrize("size", [(8, 12), (16, 24)])
def test_keys_that_are_not_finite_outside_the_mask_reach_no_pixel_inside(anchors, size):
    features, logits = torch.randn(1, 4, 8, 12), torch.randn(1, 3, *size)
    mask = torch.ones(1, *size, dtype=torch.bool)
    mask[:, :, -size[1] // 2 :] = False
    keys = features.clone()
    keys[..., 6:] = torch.nan
    refiner = DualGraphRefiner(3, 4, num_neighbors=5, max_nodes=24).eval()
    out = refiner(features, logits, mask=mask, anchors=anchors, anchor_features=keys).soft_labels
    torch.testing.assert_close(out.sum(1), torch.ones(1, *size))
    assert torch.equal(out[..., -size[1] // 2 :], logits.softmax(1)[..., -size[1] // 2 :])


class Colors(torch.nn.Module):
    def forward(self, images):
        return F.avg_pool2d(images, 4) - 0.5


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("stride", [1, 4, 8, 16])
def test_a_line_of_four_pixels_is_found_whatever_the_stride_of_the_network(stride, masked):
    image, labels = torch.zeros(1, 3, 32, 48), torch.zeros(1, 32, 48, dtype=torch.int64)
    image[..., 20:24], labels[..., 20:24] = 1.0, 1
    corrector = SegmentationCorrector(2, Colors(), magnifications=(1.0,), refiner={"num_neighbors": 5, "max_nodes": 24})
    corrector.fit(image, labels)
    mask = torch.ones(1, 32 // stride, 48 // stride, dtype=torch.bool)
    if masked:
        mask[:, mask.shape[1] // 2 :] = False
    found = corrector(image, logits=torch.zeros(1, 2, 32 // stride, 48 // stride), mask=mask).labels
    seen = slice(0, 12) if masked else slice(None)
    assert (found[:, seen] == labels[:, seen]).double().mean() > 0.98
    assert not masked or not found[:, 20:].any()
