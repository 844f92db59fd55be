"""Cells of whole pixels: labels, predictions and keys of an image of any size meet cell on cell."""

import pytest
import torch
import torch.nn.functional as F

from graphcorrect import SegmentationCorrector, label_issues
from graphcorrect.cells import aligned, cell_of, enlarged, full_size, pad_to_cells
from graphcorrect.nodes import resize_maps


class Colors(torch.nn.Module):
    def forward(self, images):
        return F.avg_pool2d(images, 4) - 0.5


def striped(side, width=4):
    """An image (1, 3, side, side) of stripes of two classes, the second one white, and its labels."""
    labels = (torch.arange(side) // width % 2).expand(1, side, side)
    return labels[:, None].float().repeat(1, 3, 1, 1), labels.contiguous()


def test_grids_of_whole_cells_are_known_from_others():
    assert cell_of((84, 125), (333, 500)) == 4
    assert cell_of((333, 500), (333, 500)) == 1
    assert cell_of((83, 125), (333, 500)) is None
    assert cell_of((5, 5), (70, 70)) == 14
    labels = torch.arange(6).reshape(1, 2, 3)
    assert pad_to_cells(labels, (1, 2), 9).tolist() == [[[0, 1, 2, 9], [3, 4, 5, 9]]]
    assert pad_to_cells(labels, (2, 3), 9).equal(labels)
    assert pad_to_cells(torch.zeros(1, 10, 10), (6, 6), 9).shape == (1, 10, 10)


@pytest.mark.parametrize("cell", [4, 8, 16, 32])
@pytest.mark.parametrize("size", [(49, 64), (60, 80), (97, 65), (180, 241), (240, 321), (375, 500)])
def test_cells_of_a_stride_are_known_whatever_the_sides(cell, size):
    assert cell_of((-(-size[0] // cell), -(-size[1] // cell)), size) == cell


def test_cells_that_divide_an_image_go_before_those_of_a_stride():
    assert cell_of((6, 8), (180, 240)) == 30


@pytest.mark.parametrize("cell", [1, 2, 4, 8, 16])
def test_aligned_maps_cover_the_cells_of_the_grid(cell):
    size, grid = (45, 62), (12, 16)
    maps = torch.rand(1, 2, -(-45 // cell), -(-62 // cell))
    found, _, side = aligned(maps, None, grid, size)
    assert side == min(cell, 4)
    assert [extent * side for extent in found.shape[-2:]] == [48, 64]
    if cell <= 4:
        assert found[..., : maps.shape[-2], : maps.shape[-1]].equal(maps)
        assert full_size(maps, *size).equal(enlarged(found, None, side, size)[0])
    else:
        coarse = F.avg_pool2d(found, cell // side)
        shown = maps[..., : coarse.shape[-2], : coarse.shape[-1]]
        assert torch.corrcoef(torch.stack([coarse.flatten(), shown.flatten()]))[0, 1] > 0.9


def test_maps_of_no_whole_cells_are_enlarged_or_left():
    assert aligned(torch.rand(1, 2, 7, 9), None, (12, 16), (45, 62))[0].shape == (1, 2, 12, 16)
    maps = torch.rand(1, 2, 20, 30)
    found, _, side = aligned(maps, None, (12, 16), (45, 62))
    assert found is maps
    assert side is None


@pytest.mark.parametrize("side", range(60, 65))
@pytest.mark.parametrize("guided", [False, True])
def test_stripes_of_a_cell_are_found_in_images_of_any_size(side, guided):
    image, labels = striped(side)
    corrector = SegmentationCorrector(2, Colors(), magnifications=(1.0,), refiner={"num_rounds": 0}, guided=guided).fit(
        image, labels
    )
    white = corrector.bank_.features[..., 0] > 0
    filled = corrector.bank_.priority > -torch.inf
    assert not (white[0] & filled[0]).any()
    assert not (~white[1] & filled[1]).any()
    for size in ((side, side), (-(-side // 4), -(-side // 4))):
        said = torch.full((1, 2, *size), 0.5)
        assert (corrector(image, probabilities=said).labels == labels).double().mean() > 0.99, size


@pytest.mark.parametrize("side", [60, 61, 62])
def test_settings_are_chosen_and_wrong_labels_found_cell_on_cell(side):
    image, labels = striped(side)
    corrector = SegmentationCorrector(2, Colors(), magnifications=(1.0,)).fit(image, labels)
    said = torch.tensor([0.51, 0.49])[:, None, None].expand(1, 2, side, side)
    found = corrector.calibrate(image, labels, probabilities=said)
    assert found.after == 1.0
    image, labels = striped(side, 16)
    given = labels.repeat(2, 1, 1)
    given[0, 32:48, 32:48] = 1 - given[0, 32:48, 32:48]
    said = torch.full((2, 2, side, side), 0.5)
    keys = Colors()(F.pad(image, (0, -side % 4) * 2)).repeat(2, 1, 1, 1)
    issues = label_issues(given, said, features=keys, error_rate=0.5).issues
    assert issues[0, 33:47, 33:47].double().mean() > 0.9
    assert issues[0, :30].double().mean() < 0.02


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("stride", [1, 4, 8])
def test_what_a_mask_leaves_out_reaches_no_pixel_inside(stride, guided):
    image, labels = striped(64, 16)
    corrector = SegmentationCorrector(2, Colors(), magnifications=(1.0,), guided=guided).fit(image, labels)
    logits = torch.randn(1, 2, 64 // stride, 64 // stride)
    mask = torch.ones(1, 64 // stride, 64 // stride, dtype=torch.bool)
    mask[:, mask.shape[1] // 2 :] = False
    other = torch.where(mask[:, None], logits, 30 * torch.randn_like(logits))
    one, two = (corrector(image, logits=each, mask=mask).probabilities for each in (logits, other))
    assert torch.equal(one[:, :, :32], two[:, :, :32])
    assert not torch.equal(one[:, :, 32:], two[:, :, 32:])


def test_enlarging_within_a_mask_is_a_mean_of_what_is_inside():
    maps, mask = torch.tensor([[[[1.0, torch.nan], [3.0, torch.nan]]]]), torch.tensor([[[True, False]] * 2])
    found, known = enlarged(maps, mask, 2, (4, 4))
    torch.testing.assert_close(found[0, 0, :, 0], torch.tensor([1.0, 1.5, 2.5, 3.0]))
    torch.testing.assert_close(found[0, 0, :, 1], found[0, 0, :, 0])
    assert known.equal(torch.tensor([True, True, False, False]).expand(1, 4, 4))
    torch.testing.assert_close(resize_maps(maps, (4, 4), mask)[..., :2], found[..., :2])
