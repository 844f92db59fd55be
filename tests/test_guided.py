"""Guided upsampling: against loops over pixels, and what an edge in the image does."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.fx.experimental.proxy_tensor import make_fx

from graphcorrect import guided_upsample
from graphcorrect.guided import distance_mean, window_mean, window_weights


def naive(soft_labels, images, steps, radius, color_scale, distance_scale, own_share):
    """Pixel by pixel in float64; edges are repeated."""
    height, width = images.shape[-2:]
    values = F.interpolate(soft_labels, size=(height, width), mode="bilinear")
    inside = [lambda y: min(max(y, 0), height - 1), lambda x: min(max(x, 0), width - 1)]
    for _ in range(steps):
        smoothed = torch.zeros_like(values)
        for b in range(len(values)):
            for y in range(height):
                for x in range(width):
                    total, mean = 0.0, torch.zeros(values.shape[1], dtype=values.dtype)
                    for dy in range(-radius, radius + 1):
                        for dx in range(-radius, radius + 1):
                            if (dy, dx) == (0, 0):
                                continue
                            v, u = inside[0](y + dy), inside[1](x + dx)
                            color = float((images[b, :, v, u] - images[b, :, y, x]).square().sum())
                            place = dy**2 + dx**2
                            weight = math.exp(-color / (2 * color_scale**2) - place / (2 * distance_scale**2))
                            total, mean = total + weight, mean + weight * values[b, :, v, u]
                    smoothed[b, :, y, x] = own_share * values[b, :, y, x] + (1 - own_share) * mean / total
        values = smoothed
    return values


@pytest.mark.parametrize(("steps", "radius"), [(0, 1), (1, 1), (1, 2), (3, 1)])
def test_values_are_those_of_loops_over_pixels(steps, radius):
    torch.manual_seed(0)
    soft_labels = torch.rand(2, 3, 3, 4, dtype=torch.float64).softmax(1)
    images = torch.rand(2, 3, 6, 9, dtype=torch.float64)
    settings = {"color_scale": 0.4, "distance_scale": 1.5, "own_share": 0.3}
    result = guided_upsample(soft_labels, images, steps=steps, radius=radius, **settings)
    torch.testing.assert_close(result, naive(soft_labels, images, steps, radius, **settings), rtol=1e-10, atol=1e-12)


def test_gradients_pass():
    soft_labels = torch.rand(1, 2, 2, 3, dtype=torch.float64).softmax(1).requires_grad_()
    images = torch.rand(1, 3, 4, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda p: guided_upsample(p, images, radius=1), soft_labels)


def test_results_stay_on_the_simplex_and_constants_stay_constant():
    torch.manual_seed(1)
    soft_labels = (5 * torch.randn(2, 4, 5, 7)).softmax(1)
    images = torch.rand(2, 3, 17, 23)
    result = guided_upsample(soft_labels, images, steps=5)
    assert (result >= 0).all()
    torch.testing.assert_close(result.sum(1), torch.ones(2, 17, 23))
    same = torch.tensor([0.5, 0.3, 0.2]).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    torch.testing.assert_close(guided_upsample(same, images), same[..., :1, :1].expand(2, 3, 17, 23))


def test_an_edge_within_a_cell_moves_to_where_the_image_has_it():
    """Cells of 4 pixels, an object that ends in the middle of one: bilinear blurs, the colors know."""
    images = torch.zeros(1, 3, 16, 24)
    images[..., 10:] = 1.0
    truth = (torch.arange(24) >= 10).long().expand(1, 16, 24)
    soft_labels = F.adaptive_avg_pool2d(F.one_hot(truth, 2).movedim(-1, 1).float(), (4, 6))
    soft_labels[:, 0, :, 2] += 0.3  # and a cell that leans the wrong way
    soft_labels = soft_labels / soft_labels.sum(1, keepdim=True)
    plain = guided_upsample(soft_labels, images, steps=0).argmax(1)
    guided = guided_upsample(soft_labels, images, steps=4, radius=3).argmax(1)
    assert (plain != truth).float().mean() > 0.03
    assert torch.equal(guided, truth)


def test_a_pixel_unlike_all_around_it_takes_an_ordinary_mean():
    images = torch.zeros(1, 3, 5, 5)
    images[..., 2, 2] = 1.0
    result = guided_upsample(torch.rand(1, 2, 5, 5).softmax(1), images, color_scale=1e-4)
    assert torch.isfinite(result).all()
    torch.testing.assert_close(result.sum(1), torch.ones(1, 5, 5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    soft_labels, images = torch.rand(1, 3, 4, 4).softmax(1).to(dtype), torch.rand(1, 3, 9, 9).to(dtype)
    result = guided_upsample(soft_labels, images)
    assert result.dtype == dtype
    torch.testing.assert_close(result, guided_upsample(soft_labels.float(), images.float()).to(dtype))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"soft_labels": torch.zeros(3, 4, 4)}, ValueError, r"`soft_labels` of shape \(B, C, h, w\)"),
        ({"images": torch.zeros(3, 3, 8, 8)}, ValueError, "`images` with 2 images"),
        (
            {"images": torch.zeros(2, 16, 20, 3)},
            ValueError,
            r"3, H, W\), got \(2, 16, 20, 3\)",
        ),
        ({"images": torch.zeros(2, 3, 3, 8)}, ValueError, r"`images` at least as large as `soft_labels`"),
        ({"images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, TypeError, "`images` to be floating point"),
        ({"steps": -1}, ValueError, "`steps` to be at least 0"),
        ({"radius": 0}, ValueError, "`radius` to be at least 1"),
        ({"color_scale": 0.0}, ValueError, "`color_scale` in"),
        ({"own_share": 1.5}, ValueError, "`own_share` in"),
        ({"soft_labels": 3 * torch.randn(2, 3, 4, 4)}, ValueError, r"`soft_labels`, at least 0 .* of logits take the"),
        ({"soft_labels": torch.full((2, 3, 4, 4), 0.9)}, ValueError, "sums from 2.7 to 2.7"),
        ({"soft_labels": torch.full((2, 3, 4, 4), torch.nan)}, ValueError, "`soft_labels` to be finite, got 96 NaN"),
        ({"images": 255 * torch.rand(2, 3, 8, 8)}, ValueError, r"`images` in \[0, 1\], .*; divide by 255"),
        ({"images": torch.randn(2, 3, 8, 8)}, ValueError, r"`images` in \[0, 1\], .* normalized \(mean, std\)\?"),
    ],
)
def test_bad_input_is_named(change, error, message):
    arguments = {"soft_labels": torch.rand(2, 3, 4, 4).softmax(1), "images": torch.rand(2, 3, 8, 8)} | change
    with pytest.raises(error, match=message):
        guided_upsample(**arguments)


def test_images_of_another_range_have_a_color_scale_of_their_own():
    soft_labels, images = torch.rand(1, 3, 4, 4).softmax(1), torch.rand(1, 3, 9, 9)
    result = guided_upsample(soft_labels, 255 * images, color_scale=255 * 0.07)
    torch.testing.assert_close(result, guided_upsample(soft_labels, images))
    overshot = images.clone()
    overshot[0, 0, 0, 0] = -0.05  # as bicubic resizing leaves it
    assert torch.isfinite(guided_upsample(soft_labels, overshot)).all()


def test_values_are_not_looked_at_where_something_records_or_maps():
    soft_labels, images = torch.rand(2, 1, 3, 4, 4).softmax(2), torch.rand(2, 1, 3, 9, 9)
    expected = torch.stack([guided_upsample(*pair) for pair in zip(soft_labels, images, strict=True)])
    torch.testing.assert_close(torch.func.vmap(guided_upsample)(soft_labels, images), expected)
    traced = make_fx(lambda soft, pixels: guided_upsample(soft, pixels))(soft_labels[0], images[0])
    torch.testing.assert_close(traced(soft_labels[1], images[1]), expected[1])


def test_pixels_that_a_mask_leaves_out_reach_nobody():
    """Where all take part nothing changes; what stands elsewhere does not matter."""
    images, soft = (
        torch.rand(1, 3, 12, 20, dtype=torch.float64),
        torch.rand(1, 4, 12, 20, dtype=torch.float64).softmax(1),
    )
    every = torch.ones(1, 12, 20, dtype=torch.bool)
    torch.testing.assert_close(guided_upsample(soft, images, mask=every), guided_upsample(soft, images))
    mask = every.clone()
    mask[..., 14:] = False
    other = torch.where(mask[:, None], soft, soft.flip(1))
    first, second = guided_upsample(soft, images, mask=mask), guided_upsample(other, images, mask=mask)
    torch.testing.assert_close(first[..., :14], second[..., :14])
    torch.testing.assert_close(first[..., 14:], soft[..., 14:])
    torch.testing.assert_close(first.sum(1), torch.ones(1, 12, 20, dtype=torch.float64))
    with pytest.raises(ValueError, match="`mask`"):
        guided_upsample(soft, images, mask=mask[:, 1:])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_masked_out_reaches_nobody(bad):
    images, mask = torch.rand(1, 3, 6, 6), torch.ones(1, 6, 6, dtype=torch.bool)
    soft = torch.rand(1, 2, 6, 6).softmax(1)
    mask[0, 2, 3] = False
    expected = guided_upsample(soft, images, mask=mask, color_scale=0.1)
    images[0, :, 2, 3] = bad
    found = guided_upsample(soft, images, mask=mask, color_scale=0.1)
    torch.testing.assert_close(found, expected)
    assert found.isfinite().all()


def test_values_that_are_masked_out_reach_nobody():
    images, mask = torch.rand(1, 3, 6, 6), torch.ones(1, 6, 6, dtype=torch.bool)
    soft = torch.rand(1, 2, 6, 6).softmax(1)
    mask[0, 2, 3] = False
    expected = guided_upsample(soft, images, mask=mask)
    soft[0, :, 2, 3] = math.nan
    program = make_fx(lambda *given: guided_upsample(*given[:2], mask=given[2]))(soft, images, mask)  # reads no value
    found = program(soft, images, mask)
    kept = mask[:, None].expand_as(found)
    torch.testing.assert_close(found[kept], expected[kept])


@pytest.mark.parametrize("steps", [0, 2])
def test_cells_that_are_masked_out_reach_nobody(steps):
    """Nor do they where a map is interpolated."""
    images, soft, mask = torch.rand(1, 3, 12, 18), torch.rand(1, 2, 4, 6).softmax(1), torch.ones(1, 12, 18).bool()
    mask[..., 9:] = False
    other = torch.where(torch.arange(6) < 3, soft, soft.flip(1))
    first, second = (guided_upsample(each, images, mask=mask, steps=steps) for each in (soft, other))
    torch.testing.assert_close(first[..., :9], second[..., :9])
    torch.testing.assert_close(first[..., 9:], F.interpolate(soft, size=(12, 18), mode="bilinear")[..., 9:])
    torch.testing.assert_close(first.sum(1), torch.ones(1, 12, 18))


def test_a_pixel_that_meets_nobody_keeps_its_probabilities():
    mask = torch.zeros(1, 7, 7, dtype=torch.bool)
    mask[0, 3, 3] = True
    soft = torch.rand(1, 3, 7, 7).softmax(1)
    found = guided_upsample(soft, torch.rand(1, 3, 7, 7), mask=mask, own_share=0.0, steps=1)
    torch.testing.assert_close(found, soft)


def test_distance_mean_is_the_mean_of_an_image_of_one_color():
    values = torch.rand(2, 3, 7, 9, dtype=torch.float64)
    weights = window_weights(torch.zeros(2, 3, 7, 9, dtype=torch.float64), 2, 0.1, 1.5)
    torch.testing.assert_close(distance_mean(values, 2, 1.5), window_mean(values, weights, 2))
