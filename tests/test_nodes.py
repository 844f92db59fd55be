"""Images and nodes: a pixel keeps its number through every reshaping, pooling and mask."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from strategies import random_features

from graphcorrect import nodes

pytestmark = pytest.mark.usefixtures("loops")


def test_pixel_h_w_becomes_node_h_times_width_plus_w():
    maps = random_features(2, 3, 4, 5)
    listed = nodes.image_to_nodes(maps)
    assert listed.shape == (2, 20, 3)
    for h in range(4):
        for w in range(5):
            torch.testing.assert_close(listed[:, h * 5 + w], maps[:, :, h, w], rtol=0, atol=0)


def test_nodes_come_back_as_the_same_image():
    maps = random_features(2, 3, 4, 5)
    torch.testing.assert_close(nodes.nodes_to_image(nodes.image_to_nodes(maps), (4, 5)), maps, rtol=0, atol=0)


@given(st.lists(st.integers(0, 3), max_size=2), st.integers(1, 40), st.integers(1, 70))
def test_a_transposed_matrix_lies_row_by_row(leading, rows, columns):
    matrices = random_features(*leading, rows, columns)
    swapped = nodes.in_rows(matrices.mT)
    assert swapped.is_contiguous()
    assert torch.equal(swapped, matrices.mT)
    assert nodes.in_rows(matrices).data_ptr() == matrices.data_ptr()  # which is no copy
    assert torch.equal(nodes.in_rows(matrices[..., ::2].mT), matrices[..., ::2].mT)


def test_the_gradient_of_a_map_lies_as_the_map_does(loops):
    maps = random_features(2, 3, 4, 5, dtype=torch.float32).requires_grad_()
    (slope,) = torch.autograd.grad(nodes.image_to_nodes(maps).square().sum(), maps)
    assert slope.is_contiguous() == (loops == "numba")  # torch's own way back costs as much as it saves
    torch.testing.assert_close(slope, 2 * maps, rtol=0, atol=0)


def test_in_rows_gradcheck():
    matrices = random_features(2, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda columns: nodes.in_rows(columns.mT), matrices)
    assert torch.autograd.gradgradcheck(lambda columns: nodes.in_rows(columns.mT), matrices)


def test_unit_rows_have_length_one_and_keep_direction():
    rows = random_features(7, 3) * torch.logspace(-30, 30, 7, dtype=torch.float64)[:, None]
    torch.testing.assert_close(nodes.unit_rows(rows), F.normalize(rows, dim=1, eps=0.0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_unit_rows_survive_lengths_whose_square_float32_cannot_hold(scale):
    rows = torch.tensor([[3.0, 4.0]]) * scale
    torch.testing.assert_close(nodes.unit_rows(rows), torch.tensor([[0.6, 0.8]]))


def test_a_zero_row_stays_zero_and_gets_no_gradient():
    rows = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    unit = nodes.unit_rows(rows)
    torch.testing.assert_close(unit.detach(), torch.tensor([[0.0, 0.0], [0.6, 0.8]], dtype=torch.float64))
    unit[:, 0].sum().backward()
    torch.testing.assert_close(rows.grad, torch.tensor([[0.0, 0.0], [0.128, -0.096]], dtype=torch.float64))


def test_unit_rows_gradcheck():
    rows = random_features(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(nodes.unit_rows, rows)


@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_products_average_over_the_cells_of_adaptive_pooling(height, width, data):
    size = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    maps = random_features(2, 3, height, width)
    averages = nodes._cells(height, size[0], maps) @ maps @ nodes._cells(width, size[1], maps).mT
    torch.testing.assert_close(averages, F.adaptive_avg_pool2d(maps, size))


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 5000))
def test_the_grid_fits_the_budget_and_never_enlarges(height, width, max_nodes):
    rows, columns = nodes.grid_size(height, width, max_nodes)
    assert 1 <= rows <= height
    assert 1 <= columns <= width
    assert rows * columns <= max_nodes
    if height * width <= max_nodes:
        assert (rows, columns) == (height, width)


def test_the_grid_keeps_the_aspect_ratio():
    rows, columns = nodes.grid_size(512, 1024, 4096)
    assert 3600 < rows * columns <= 4096
    assert abs(columns / rows - 2) < 0.06


def test_pooling_averages_whole_cells():
    maps = random_features(2, 3, 4, 6)
    expected = maps.reshape(2, 3, 2, 2, 3, 2).mean((3, 5))
    torch.testing.assert_close(nodes.pool_maps(maps, (2, 3)), expected)


def test_pooling_counts_only_pixels_under_the_mask():
    maps = torch.tensor([[[[1.0, 3.0, 5.0, 7.0], [9.0, float("nan"), 2.0, 4.0]]]], dtype=torch.float64)
    mask = torch.tensor([[[True, True, False, False], [True, False, False, False]]])
    pooled = nodes.pool_maps(maps, (1, 2), mask)
    torch.testing.assert_close(pooled, torch.tensor([[[[13.0 / 3.0, 0.0]]]], dtype=torch.float64))
    assert nodes.pool_mask(mask, (1, 2)).tolist() == [[[True, False]]]


def test_rows_without_entries_are_unit_rows():
    assert nodes.unit_rows(torch.zeros(3, 0)).shape == (3, 0)


@given(rows=st.integers(0, 9), width=st.integers(1, 40), seed=st.integers(0, 1000), wrong=st.booleans())
def test_the_largest_entry_is_the_first_of_the_largest_or_the_first_nan(rows, width, seed, wrong):
    values = random_features(rows, width, seed=seed).mul(2).round()  # many are equal
    if wrong and rows:
        values[0, width // 2 :] = torch.nan
        values[-1, -1] = torch.nan
    entry, place = nodes.largest_entry(values)
    expected = values.max(-1) if rows else (values[:, 0], torch.zeros(0, dtype=torch.int64))
    assert torch.equal(place, expected[1])
    torch.testing.assert_close(entry, expected[0], rtol=0, atol=0, equal_nan=True)
