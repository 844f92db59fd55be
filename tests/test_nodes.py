"""Images and nodes: a pixel keeps its number through every reshaping, pooling and mask."""

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from strategies import random_features

from graphcorrect import nodes


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


def test_nodes_lie_row_by_row_and_their_gradients_come_back():
    maps = random_features(2, 3, 4, 5).requires_grad_()
    listed = nodes.image_to_nodes(maps)
    assert listed.is_contiguous()
    (slope,) = torch.autograd.grad(listed.square().sum(), maps)
    torch.testing.assert_close(slope, 2 * maps, rtol=0, atol=0)


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
