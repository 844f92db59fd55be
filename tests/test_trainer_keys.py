"""What labeled pixels are looked up by: the teacher's encoder, or the encoder as it was before any training."""

import copy

import pytest
import torch
from torch import nn
from trainer_data import tiny

from graphcorrect import AnchorBank

engine = pytest.importorskip("segmentation.engine")
keys = pytest.importorskip("segmentation.keys")
state = pytest.importorskip("segmentation.state")


def built(**settings):
    return state.build(tiny(methods=("mllc+anchors",), anchors__keys="initial", **settings), 10, torch.device("cpu"))


@pytest.mark.parametrize("size", [(32, 48), (45, 61)])
def test_keys_lie_on_the_grid_at_a_quarter_and_are_unit_vectors(size):
    network = built().model.network
    encoder = keys.KeyEncoder(network, (2, 4), (1.0, 1.5))
    found = encoder(torch.rand(2, 3, *size))
    widths = 2 * [network.encoder.out_channels[level] for level in (2, 4)]
    assert found.shape == (2, encoder.dim, -(-size[0] // 4), -(-size[1] // 4))
    assert encoder.dim == sum(widths)
    for block in found.split(widths, 1):
        torch.testing.assert_close(block.norm(dim=1), torch.ones_like(block[:, 0]))


def test_a_cell_of_the_keys_sees_the_pixels_that_it_lies_on():
    encoder = keys.KeyEncoder(built().model.network, (2,), (1.0, 2.0))
    image = torch.rand(1, 3, 64, 64)
    other = image.clone()
    other[..., 32:36, 40:44] = 1 - other[..., 32:36, 40:44]
    for block in (encoder(image) - encoder(other)).chunk(2, 1):
        change = block.norm(dim=1)[0]
        assert change[8, 10] > 0.5 * change.max()


def test_training_changes_no_key():
    made = built()
    image = torch.rand(1, 3, 32, 32)
    before = made.banks.anchors.keys(image, None)
    nn.init.normal_(next(made.model.network.encoder.parameters()))
    made.teacher.update(made.model)
    assert torch.equal(made.banks.anchors.keys(image, None), before)
    assert not any(name.startswith("anchors._encoder") for name in made.banks.state_dict())


def test_a_fresh_bank_is_empty_and_looks_in_the_same_way():
    bank = built(anchors__capacity=7, anchors__decay=0.5).banks.anchors
    image, labels = torch.rand(1, 3, 32, 32), torch.randint(10, (1, 32, 32))
    bank.update(bank.keys(image, None), labels)
    fresh = bank.fresh()
    assert int(bank.counts.sum()) > 0 == int(fresh.counts.sum())
    assert (fresh.capacity_per_class, fresh.decay) == (7, 0.5)
    assert torch.equal(fresh.keys(image, None), bank.keys(image, None))
    assert isinstance(fresh, AnchorBank)


def test_a_run_with_the_initial_encoder_resumes_to_the_bit(tmp_path, monkeypatch):
    settings = tiny(methods=("mllc+anchors",), anchors__keys="initial", anchors__magnifications=(1.0, 1.5))
    engine.run(copy.deepcopy(settings), tmp_path / "whole")
    halted = copy.deepcopy(settings)
    halted.running.checkpoint_every = 1

    class Halt(Exception):
        pass

    def stop_after(state, run, save=engine.save):
        save(state, run)
        if run.progress.phase == "mllc+anchors" and state.step == 3:
            raise Halt

    monkeypatch.setattr(engine, "save", stop_after)
    with pytest.raises(Halt):
        engine.run(copy.deepcopy(halted), tmp_path / "halted")
    monkeypatch.undo()
    engine.run(copy.deepcopy(halted), tmp_path / "halted", resume=True)
    one, two = (
        torch.load(tmp_path / name / "mllc+anchors" / "last.pt", weights_only=True) for name in ("whole", "halted")
    )
    assert one["banks"]["anchors.features"].abs().sum() > 0
    for part in ("model", "teacher", "banks"):
        assert all(torch.equal(one[part][name], two[part][name]) for name in one[part])
