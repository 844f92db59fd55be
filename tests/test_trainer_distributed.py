"""Two gloo processes train as one does on the joined batch, through the trainer itself."""

import os
import socket

import pytest
import torch
from torch import nn
from trainer_data import process, same, tiny, write_voc

from graphcorrect import DualGraphRefiner, EMATeacher

batchnorm = pytest.importorskip("segmentation.batchnorm")
checkpoint = pytest.importorskip("segmentation.checkpoint")
command = pytest.importorskip("segmentation.command")
engine = pytest.importorskip("segmentation.engine")
networks = pytest.importorskip("segmentation.networks")
processes = pytest.importorskip("segmentation.processes")
recipes = pytest.importorskip("segmentation.recipe")
report = pytest.importorskip("segmentation.report")
teaching = pytest.importorskip("segmentation.teaching")

METHODS = ("self_training", "unimatch+anchors+graphs", "mllc+anchors", "rounds")


def join(rank, port):
    """What `torchrun` tells a process."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port))  # fmt: skip


def in_two_processes(work, *arguments):
    """Do work in two processes of one group; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [process(work, rank, port, *arguments) for rank in range(2)]
    for each in both:
        each.join()
    return [each.exitcode for each in both]


def joined(rank, port, recipe, folder):
    join(rank, port)
    processes.join("cpu")
    normalize(rank, folder)
    engine.run(recipe, folder / "two")
    processes.leave()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same recipe on one process and on two.

    BatchNorm is synchronized on CPUs by the trainer's own layer. Dropout, which each process draws for itself, is off;
    the bank is large enough to keep every anchor, whose choice is random. In float64, since a network of random weights
    and BatchNorm over four cells makes 1e-6 of rounding in the first loss 1e-3 of the weights within three steps; and
    SGD, since Adam makes whole steps of the rounding in a gradient that should be zero.
    """
    folder = tmp_path_factory.mktemp("two")
    recipe = tiny(
        methods=METHODS, data__folder=str(write_voc(folder / "voc", train=9)), data__layout="voc", data__labeled="4",
        schedule__labeled_batch=4, schedule__unlabeled_batch=4, network__dropout=0, views__mixed=0.8,
        refiner__preset="released", anchors__capacity=2000, optimizer__name="sgd", running__precision="fp64",
        running__checkpoint_every=1, loss__dice=0.5, teacher__confidence=0.1, schedule__rounds=2,
    )  # fmt: skip
    command.write_recipe(recipe, folder)
    engine.run(recipe, folder / "one")
    assert in_two_processes(joined, recipe, folder) == [0, 0]
    return folder


def assert_close(first, second, name):
    torch.testing.assert_close(second, first, rtol=1e-5, atol=1e-5, msg=lambda text: f"{name}: {text}")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_weights_and_statistics_are_those_of_the_joined_batch(runs, method):
    one, two = (checkpoint.load(runs / name / method / "last.pt") for name in ("one", "two"))
    for part in ("model", "teacher"):
        assert one[part].keys() == two[part].keys()
        for name, expected in one[part].items():
            assert_close(expected, two[part][name], f"{part} {name}")
    for name in ("prototypes.prototypes", "prototypes.is_initialized"):
        assert_close(one["banks"][name], two["banks"][name], name)
    anchors = [checkpoint_["banks"]["anchors.priority"] > -torch.inf for checkpoint_ in (one, two)]
    assert torch.equal(anchors[0].sum(1), anchors[1].sum(1))
    if method == "mllc+anchors":
        assert one["banks"]["prototypes.is_initialized"].any()
    # and training has moved them much further than they are apart
    start = checkpoint.load(runs / "one" / "warmup.pt")["model"]["network.classifier.weight"]
    assert (one["model"]["network.classifier.weight"] - start).abs().max() > 1e-4


@pytest.mark.slow
def test_losses_and_scores_are_those_of_the_joined_batch(runs):
    one, two = (report.read_log(runs / name / "log.jsonl") for name in ("one", "two"))
    assert len(one) == len(two) == 2 + len(METHODS) * 3
    for expected, got in zip(one, two, strict=True):
        assert expected.keys() == got.keys()
        for name, value in expected.items():
            if isinstance(value, float):
                assert got[name] == pytest.approx(value, rel=1e-5, abs=1e-5), (expected["method"], name)
            else:
                assert got[name] == value, (expected["method"], name)


STOPPED = 3


def stopped(rank, port, recipe, out):
    """Dies in the middle of mllc, after its first step's checkpoint."""
    saved = engine.save

    def save_and_die(state, run):
        saved(state, run)
        if run.progress.phase == "mllc+anchors":
            processes.barrier()  # the main process has written
            os._exit(STOPPED)

    engine.save = save_and_die
    join(rank, port)
    engine.run(recipe, out)


def resumed(rank, port, recipe, out):
    join(rank, port)
    engine.run(recipe, out, resume=True)
    processes.leave()


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_bit_for_bit(runs):
    recipe, out = recipes.load(str(runs / "recipe.yaml")), runs / "stopped"
    assert in_two_processes(stopped, recipe, out) == [STOPPED] * 2
    assert in_two_processes(resumed, recipe, out) == [0, 0]
    for method in METHODS:
        whole, other = (checkpoint.load(folder / method / "last.pt") for folder in (runs / "two", out))
        assert same(whole, other), method
    assert report.read_log(runs / "two" / "log.jsonl") == report.read_log(out / "log.jsonl")


def normalize(rank, folder):
    """A step of BatchNorm on uneven shards."""
    torch.manual_seed(0)
    maps = torch.randn(6, 3, 5, 4) * 3 + 1
    upstream = torch.randn(6, 3, 5, 4)
    layer = batchnorm.convert_batchnorm(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()))
    nn.init.uniform_(layer[0].weight)
    shard = slice(0, 2) if rank == 0 else slice(2, 6)  # uneven
    mine = maps[shard].clone().requires_grad_()
    out = layer(mine)
    (out * upstream[shard]).sum().backward()
    found = {"out": out.detach(), "input": mine.grad, "weight": layer[0].weight.grad, "mean": layer[0].running_mean,
             "var": layer[0].running_var, "scale": layer[0].weight.detach()}  # fmt: skip
    torch.save(found, f"{folder}/{rank}.pt")


@pytest.mark.slow
def test_synced_batchnorm_is_batchnorm_of_the_joined_batch(runs):
    first, second = (torch.load(runs / f"{rank}.pt", weights_only=True) for rank in range(2))
    torch.manual_seed(0)
    maps = (torch.randn(6, 3, 5, 4) * 3 + 1).requires_grad_()
    upstream = torch.randn(6, 3, 5, 4)
    layer = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())
    layer[0].weight.data = first["scale"]
    out = layer(maps)
    (out * upstream).sum().backward()
    assert_close(out.detach(), torch.cat([first["out"], second["out"]]), "out")
    assert_close(maps.grad, torch.cat([first["input"], second["input"]]), "gradient")
    assert_close(layer[0].weight.grad, first["weight"] + second["weight"], "gradient of the weight")
    for name in ("mean", "var"):
        assert_close(getattr(layer[0], f"running_{name}"), first[name], name)
        assert torch.equal(first[name], second[name])


def test_an_activation_inside_a_batchnorm_layer_survives():
    timm_layers = pytest.importorskip("timm.layers")
    before = timm_layers.BatchNormAct2d(3).eval()
    after = batchnorm.convert_batchnorm(timm_layers.BatchNormAct2d(3)).eval()
    maps = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(after(maps), before(maps))
    assert (after(maps) >= 0).all()
    assert after.state_dict().keys() == before.state_dict().keys()


@pytest.mark.slow
def test_accumulated_parts_see_the_same_images_as_a_whole_step(runs, tmp_path):
    recipe = tiny(
        methods=("supervised",), data__folder=str(runs / "voc"), data__layout="voc", data__labeled="4",
        schedule__labeled_batch=4, schedule__accumulate=2, network__dropout=0, running__checkpoint_every=1,
    )  # fmt: skip
    seen = []
    original = engine.losses_of

    def watch(method, student, state, run, labeled, *rest):
        seen.append(labeled.images)
        return original(method, student, state, run, labeled, *rest)

    engine.losses_of = watch
    try:
        engine.run(recipe, tmp_path / "parts")
        parts, seen = seen[:2], []
        recipe.schedule.accumulate = 1
        engine.run(recipe, tmp_path / "whole")
    finally:
        engine.losses_of = original
    assert torch.equal(torch.cat(parts), seen[0])


class Says(nn.Module):
    """A network that says of each pixel what its color is, with the graphs that correct it."""

    def __init__(self, preset):
        super().__init__()
        torch.manual_seed(0)
        self.refiner = DualGraphRefiner.from_preset(preset, num_classes=3, feature_dim=3, num_neighbors=4, sigma=0.6)

    def forward(self, images):
        return networks.NetworkOutput(images, images, images), None


def pseudo_labels(images, preset):
    """What a teacher's graphs make of a step's images, and its counts of confident nodes afterwards."""
    inside = torch.ones(len(images), *images.shape[-2:], dtype=torch.bool)
    teacher, method = EMATeacher(Says(preset)), teaching.Method("self_training", ("graphs",))
    found = teaching.pseudo_label(method, teacher, images, inside, teaching.Banks(None, None), counts=True)
    assert not any(module.training for module in teacher.modules() if module is not teacher)
    return {"probabilities": found.probabilities, "counts": teacher.module.refiner.threshold.counts}


def two_images():
    """Logits (2, 3, 6, 6): the first image is mostly of class 0, with confidence, the second of none."""
    torch.manual_seed(1)
    images = 2 * torch.randn(2, 3, 6, 6)
    images[0, 0] += 2
    return images


def brief_maps():
    """Maps (6, 3, 5, 4) far from zero, as bfloat16 holds them."""
    torch.manual_seed(0)
    return (torch.randn(6, 3, 5, 4) * 3 + 100).bfloat16()


def briefly(rank, port, folder):
    """Two commands, one after the other; BatchNorm under autocast; pseudo-labels. No training."""
    join(rank, port)
    groups = []

    def look(given):
        processes.join("cpu")
        groups.append(torch.distributed.group.WORLD)

    command.work = look
    for _ in range(2):
        command.main(command.Command(tiny(), folder, resume=False, dry_run=False))
        assert torch.distributed.is_initialized()  # else torchrun's store would have the second one hang
    assert groups[0] is groups[1]
    layer = batchnorm.convert_batchnorm(nn.Sequential(nn.BatchNorm2d(3)))
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(brief_maps().chunk(2)[rank])
    found = {"out": out.detach(), "mean": layer[0].running_mean, "var": layer[0].running_var}
    found |= {preset: pseudo_labels(two_images()[rank : rank + 1], preset) for preset in ("paper", "released")}
    torch.save(found, folder / f"{rank}.pt")
    processes.leave()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What two processes have found, each its own."""
    folder = tmp_path_factory.mktemp("briefly")
    assert in_two_processes(briefly, folder) == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_statistics_of_synced_batchnorm_are_float32_under_autocast(found):
    layer, maps = nn.BatchNorm2d(3), brief_maps()
    expected = layer(maps.float()).detach()
    for name in ("mean", "var"):
        for each in found:
            assert_close(getattr(layer, f"running_{name}"), each[name], name)
    out = torch.cat([each["out"] for each in found])
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_class_thresholds_of_a_teacher_are_those_of_the_joined_batch(found, preset):
    one = pseudo_labels(two_images(), preset)
    both = torch.cat([each[preset]["probabilities"] for each in found])
    assert_close(one["probabilities"], both, "probabilities")
    for each in found:
        assert torch.equal(each[preset]["counts"], one["counts"])
    assert bool(one["counts"].any()) == (preset == "released")  # which counts over all of training
    apart = torch.cat([pseudo_labels(image, preset)["probabilities"] for image in two_images().split(1)])
    assert (apart - both).abs().max() > 0.01
