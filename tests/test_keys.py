"""Keys of pixels: unit blocks of an encoder's levels, in place, within a budget."""

import pytest
import torch
import torch.nn.functional as F
from small_scenes import Levels

from graphcorrect.keys import KeyEncoder, middle_levels


def test_keys_are_unit_blocks_of_the_levels_in_place():
    encoder = Levels()
    images = torch.rand(1, 3, 32, 64)
    keys = KeyEncoder(encoder, magnifications=(1.0,), multiple=16)(images)
    _, middle, last = encoder(images)
    for block, level, repeat in ((keys[:, :6], middle, 2), (keys[:, 6:], last, 4)):
        torch.testing.assert_close(block.norm(dim=1), torch.ones(1, 8, 16))
        # A cell's middle lies among four keys, whose mean has its direction
        around = F.avg_pool2d(block, repeat)
        assert F.cosine_similarity(around, level).min() > 0.8
    shifted = KeyEncoder(encoder, magnifications=(1.0, 2.0), multiple=16)(images.roll(16, 3))
    inner = KeyEncoder(encoder, magnifications=(1.0, 2.0), multiple=16)(images)
    torch.testing.assert_close(shifted[..., 8:12], inner[..., 4:8])  # 16 pixels are 4 cells


def test_which_levels_are_taken():
    assert middle_levels([2, 4, 8, 16, 32]) == [2, 3]
    assert middle_levels([1, 2, 4, 8, 16, 32]) == [3, 4]
    assert middle_levels([4]) == [0]
    assert middle_levels([14] * 12) == [5, 6]
    assert middle_levels([16, 16, 16, 16]) == [1, 2]
    images = torch.rand(1, 3, 32, 32)
    for found in ({"out": torch.rand(1, 7, 4, 4)}, torch.rand(1, 7, 4, 4)):
        assert KeyEncoder(lambda x, found=found: found, magnifications=(1,))(images).shape == (1, 7, 8, 8)
    assert KeyEncoder(Levels(), levels=[0], magnifications=(1,))(images).shape == (1, 4, 8, 8)
    with pytest.raises(ValueError, match="`levels` among the 3 maps of the encoder"):
        KeyEncoder(Levels(), levels=[3])(images)
    with pytest.raises(ValueError, match=r"`encoder` of shape \(B, D, h, w\)"):
        KeyEncoder(lambda x: x.flatten(1))(images)


def test_large_images_are_not_enlarged_beyond_the_budget():
    sizes = []

    def encoder(images):
        sizes.append(tuple(images.shape[-2:]))
        return F.avg_pool2d(images, 8)

    keys = KeyEncoder(encoder, multiple=32, max_pixels=128 * 160)(torch.rand(1, 3, 100, 130))
    assert keys.shape == (1, 9, 25, 33)
    assert sizes == [(128, 160)] * 3
    KeyEncoder(encoder, magnifications=(1.0,), multiple=32, max_pixels=64 * 64)(torch.rand(1, 3, 256, 256))
    assert sizes[-1] == (64, 64)


def test_an_encoder_that_normalizes_in_place_gives_the_same_keys():
    layer, images = torch.nn.Conv2d(3, 8, 8, stride=8), torch.rand(2, 3, 32, 48)
    given = images.clone()
    found = KeyEncoder(lambda image: layer(image.sub_(0.45).div_(0.22)))(given)
    assert torch.equal(found, KeyEncoder(lambda image: layer((image - 0.45) / 0.22))(images))
    assert torch.equal(given, images)


def test_an_encoder_that_keeps_tensors_of_its_last_pass_is_copied():
    class Keeping(torch.nn.Conv2d):
        def forward(self, images):
            self.last = super().forward(images)
            return self.last

    encoder, images = Keeping(3, 8, 8, stride=8), torch.rand(1, 3, 32, 48)
    encoder(images)
    keys = KeyEncoder(encoder)
    assert not keys(images).requires_grad
    assert all(parameter.requires_grad for parameter in encoder.parameters())


def test_settings_that_are_no_lists_are_named():
    for name in ("magnifications", "levels"):
        with pytest.raises(TypeError, match=f"expected `{name}` to be a list"):
            KeyEncoder(torch.nn.Conv2d(3, 8, 8), **{name: 2})


def test_images_of_bytes_or_without_a_batch_are_refused():
    encoder, images = KeyEncoder(torch.nn.Conv2d(3, 8, 8, stride=8)), torch.randint(256, (1, 3, 32, 48)).byte()
    with pytest.raises(TypeError, match="`images` to be floating point, got torch.uint8; use `images / 255`"):
        encoder(images)
    with pytest.raises(ValueError, match=r"`images` of shape \(B, 3, H, W\), got \(3, 32, 48\)"):
        encoder(images[0] / 255)
