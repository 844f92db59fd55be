"""Images whose sides the network's stride does not divide: what is said of a cell is said of the pixels below it."""

import pytest
import torch
import trainer_data  # noqa: F401 (finds the trainer)
from torch.nn import functional as F

networks = pytest.importorskip("segmentation.networks")


@pytest.mark.parametrize("size", [(49, 49), (49, 64), (64, 41), (321, 321), (5, 64), (3, 2)])
@pytest.mark.parametrize("stride", [1, 4, 8])
def test_a_map_is_enlarged_by_the_stride_that_made_it(size, stride):
    grid = [-(-side // stride) for side in size]
    maps = torch.rand(1, 2, *grid)
    whole = F.interpolate(maps, scale_factor=float(stride), mode="bilinear")
    torch.testing.assert_close(networks.upsample(maps, size), whole[..., : size[0], : size[1]])
