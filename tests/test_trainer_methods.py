"""What each method asks of its student: names, views, and pairs that differ in the correction alone."""

import copy
import random
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from trainer_data import tiny, write_voc

from graphcorrect import DualGraphRefiner

checkpoint = pytest.importorskip("segmentation.checkpoint")
datasets = pytest.importorskip("segmentation.datasets")
engine = pytest.importorskip("segmentation.engine")
methods = pytest.importorskip("segmentation.method")
models = pytest.importorskip("segmentation.model")
recipes = pytest.importorskip("segmentation.recipe")
report = pytest.importorskip("segmentation.report")
rounds = pytest.importorskip("segmentation.rounds")
state = pytest.importorskip("segmentation.state")
teaching = pytest.importorskip("segmentation.teaching")
transforms = pytest.importorskip("segmentation.transforms")


def of(name):
    return methods.parse(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("supervised", methods.Method()),
        ("fixmatch", methods.Method("fixmatch")),
        ("unimatch+graphs+anchors", methods.Method("unimatch", ("anchors", "graphs"))),
        ("rounds+anchors", methods.Method("rounds", ("anchors",))),
        ("mllc", methods.Method("self_training", ("graphs",), True)),
        ("mllc+graphs", methods.Method("self_training", ("graphs",), True)),
        ("mllc+anchors", methods.Method("self_training", ("anchors", "graphs"), True)),
    ],
)
def test_a_name_says_teaching_correction_and_losses(name, expected):
    assert of(name) == expected
    assert of(str(expected)) == expected


def test_the_same_method_named_twice_is_one():
    read = recipes.load("digits", {"methods": ["fixmatch+graphs+anchors", "mllc+graphs", "fixmatch+anchors+graphs"]})
    assert read.methods == ("fixmatch+anchors+graphs", "mllc")


@pytest.mark.parametrize(("use", "expected"), [(True, "mllc+anchors"), (False, "mllc")])
def test_checkpoints_of_earlier_versions_are_read(use, expected):
    before = recipes.as_dict(recipes.load("digits"))
    before["methods"], before["anchors"]["use"], before["loss"]["soft"] = ["supervised", "mllc"], use, True
    del before["loss"]["labels"], before["correct"]
    read = recipes.from_dict(before, "its recipe")
    assert read.methods == ("supervised", expected)
    assert read.loss.labels == "soft"


def test_one_training_is_read_in_900_lines():
    pages = re.findall(r"`(\w+\.py)`", engine.__doc__)
    assert pages == ["teaching.py", "losses.py", "model.py", "method.py", "state.py"]
    lines = [len((Path(engine.__file__).parent / page).read_text().splitlines()) for page in ["engine.py", *pages]]
    assert sum(lines) <= 900


# --- views


def drawn(images, size=(32, 48)):
    odds = {"jitter": 1.0, "mixed": 1.0}
    pairs = [
        [transforms.draw_strong_view(random.Random(f"{number}/{view}"), size, **odds) for view in range(2)]
        for number in range(images)
    ]
    return torch.stack([torch.stack(pair) for pair in pairs])


def pseudo(images, classes=4):
    torch.manual_seed(0)
    probabilities = torch.rand(len(images), classes, *images.shape[-2:]).softmax(1)
    labels = probabilities.argmax(1)
    return teaching.PseudoLabels(labels, probabilities, torch.ones_like(labels, dtype=torch.bool), *torch.zeros(2))


def test_unimatch_has_two_strong_views_and_one_of_dropped_channels():
    weak, draws, recipe = torch.rand(4, 3, 32, 48), drawn(4), tiny()
    single = teaching.streams_of(of("fixmatch"), weak, draws, pseudo(weak), recipe, (16, 24))
    first, second, dropped = teaching.streams_of(of("unimatch"), weak, draws, pseudo(weak), recipe, (16, 24))
    assert len(single) == 1
    assert torch.equal(single[0].images, first.images)
    assert (single[0].share, first.share, second.share, dropped.share) == (1, 0.25, 0.25, 0.5)
    assert (first.images - second.images).abs().mean() > 0.05
    assert not torch.equal(first.labels, second.labels)  # a box of its own
    assert torch.equal(dropped.images, weak)
    assert torch.equal(dropped.labels, pseudo(weak).labels)
    assert (first.channels, second.channels) == (None, None)
    assert [each.shape for each in dropped.channels] == [(4, 16), (4, 24)]


def test_half_of_the_channels_is_dropped_and_each_image_has_its_own():
    draws = drawn(64)[:, 1]
    kept = transforms.kept_channels(draws, (100, 40))
    assert set(torch.cat(kept, 1).unique().tolist()) == {0, 2}
    assert float(torch.cat(kept, 1).mean()) == pytest.approx(1, abs=0.05)
    assert not torch.equal(kept[0][0], kept[0][1])
    alone = transforms.kept_channels(draws[7:8], (100, 40))
    assert all(torch.equal(whole[7:8], one) for whole, one in zip(kept, alone, strict=True))


@pytest.mark.parametrize("architecture", ["deeplabv3plus", "segformer"])
def test_dropped_channels_concern_their_images_alone(architecture):
    backbone = {"deeplabv3plus": "tu-resnet18", "segformer": "mit_b0"}[architecture]
    recipe = tiny(network__architecture=architecture, network__backbone=backbone)
    model = state.build(recipe, 5, torch.device("cpu")).model.eval()
    images = torch.rand(2, 3, 32, 48)
    channels = [torch.ones(2, width) for width in model.network.widths]
    plain, same = model(images)[0].logits, model(images, channels=channels)[0].logits
    assert torch.equal(plain, same)
    channels[-1][1] = 0
    changed = model(images, channels=channels)[0].logits
    torch.testing.assert_close(changed[0], plain[0])
    assert not torch.allclose(changed[1], plain[1])


def test_balanced_crops_hold_the_rare_class_as_often_as_the_frequent_one():
    labels = torch.zeros(64, 64, dtype=torch.uint8)
    labels[5:8, 50:53], labels[0] = 1, 255
    image = labels[None].repeat(3, 1, 1)

    def share(balanced):
        view = transforms.WeakView((16, 16), (1.0, 1.0), balanced=balanced)
        return sum((view(image, labels, random.Random(number))[1] == 1).any().item() for number in range(200)) / 200

    assert share(0.0) < 0.2
    assert 0.45 < share(1.0) < 0.7
    nothing = torch.full_like(labels, 255)
    view = transforms.WeakView((16, 16), (1.0, 1.0), balanced=1.0)
    assert (view(image, nothing, random.Random(0))[1] == 255).all()


# --- corrections


@pytest.mark.parametrize("stride", [1, 4])
def test_anchors_alone_move_probabilities_to_the_labels_nearby(stride):
    """Keys that tell two classes apart, a network that knows nothing."""
    recipe = tiny(methods=("fixmatch+anchors",))
    built = state.build(recipe, 2, torch.device("cpu"))
    left = torch.zeros(1, 3, 16, 32)
    left[..., 16:] = 1
    keys = torch.zeros(1, built.banks.anchors.feature_dim, 4, 8)
    keys[:, 0, :, :4], keys[:, 1, :, 4:] = 1, 1
    labels = (torch.arange(32) >= 16).long().expand(1, 16, 32)
    built.banks.anchors.update(keys, labels)
    size = (16 // stride, 32 // stride)
    embedding, nothing = torch.zeros(1, recipe.network.feature_dim, *size), torch.zeros(1, 2, *size)
    output = models.NetworkOutput(nothing, embedding, keys)
    options = {"anchors": built.banks.anchors, "guided": False}
    refiner = built.model.refiner.eval()
    found = models.corrected_probabilities(("anchors",), refiner, output, left, **options)
    assert found.shape == (1, 2, 16, 32)
    torch.testing.assert_close(found.sum(1), torch.ones(1, 16, 32))
    assert (found.argmax(1) == labels).float().mean() > 0.9
    inside = torch.ones(1, 16, 32, dtype=torch.bool)
    inside[..., 24:] = False
    masked = models.corrected_probabilities(("anchors",), refiner, output, left, inside=inside, **options)
    torch.testing.assert_close(masked[..., 28:], torch.full((1, 2, 16, 4), 0.5))
    coarse = DualGraphRefiner(2, recipe.network.feature_dim, max_nodes=32)  # cells of padding alone
    masked = models.corrected_probabilities(("anchors",), coarse, output, left, inside=inside, **options)
    torch.testing.assert_close(masked.sum(1), torch.ones(1, 16, 32))


def with_both_halves(tmp_path, **settings):
    folder = tmp_path / "voc"
    if not folder.exists():
        write_voc(folder, train=9)
    given = {"data__folder": str(folder), "data__layout": "voc", "data__labeled": "4", "optimizer__name": "sgd"}
    return tiny(**given | {"network__dropout": 0} | settings)


@pytest.mark.slow
def test_a_pair_sees_the_same_batches(tmp_path, monkeypatch):
    seen, original = {}, engine.losses_of

    def watch(method, student, built, run, labeled, weak, *rest):
        seen.setdefault(run.progress.phase, []).append((labeled.images, weak and (weak.images, weak.draws)))
        return original(method, student, built, run, labeled, weak, *rest)

    monkeypatch.setattr(engine, "losses_of", watch)
    names = ("fixmatch", "fixmatch+anchors+graphs", "unimatch", "unimatch+graphs")
    engine.run(with_both_halves(tmp_path, methods=names), tmp_path / "out")
    first = seen[names[0]]
    for name in names[1:]:
        for (labeled, weak), (other, others) in zip(first, seen[name], strict=True):
            assert torch.equal(labeled, other)
            assert all(torch.equal(a, b) for a, b in zip(weak, others, strict=True))


@pytest.mark.slow
def test_correction_starts_when_it_is_told_to(tmp_path):
    settings = {"methods": ("self_training+anchors", "self_training"), "schedule__steps": 4, "correct__after": 2}
    settings["evaluation__times"] = 4  # also before anything is corrected
    engine.run(with_both_halves(tmp_path, **settings), tmp_path / "out")
    log = report.read_log(tmp_path / "out/log.jsonl")
    tested = [entry for entry in log if "teacher_miou" in entry and entry["method"] == settings["methods"][0]]
    assert ["pseudo_after_miou" in entry for entry in tested] == [False, False, True, True]
    log = [entry for entry in log if "changed" in entry]
    corrected, plain = ([entry for entry in log if entry["method"] == name] for name in settings["methods"])
    assert [entry["changed"] > 0 for entry in corrected] == [False, False, True, True]
    for entry, other in zip(corrected[:2], plain[:2], strict=True):
        assert {**entry, "method": ""} == {**other, "method": ""}  # the same until then


def test_correction_that_would_begin_after_the_last_step_is_refused(tmp_path):
    settings = {"schedule__steps": 4, "correct__after": 4}
    with pytest.raises(ValueError, match=r"`correct\.after` below `schedule\.steps`, 4, got 4: it corrects no label"):
        engine.run(with_both_halves(tmp_path, methods=("mllc",), **settings), tmp_path / "out")
    engine.run(with_both_halves(tmp_path, methods=("supervised",), **settings), tmp_path / "plain")


@pytest.mark.slow
def test_correction_fades_when_it_is_told_to(tmp_path, monkeypatch):
    strengths, original = [], engine.pseudo_label

    def watch(method, teacher, images, inside, banks, **options):
        strengths.append(banks.anchors.strength if method.correct else 0.0)
        return original(method, teacher, images, inside, banks, **options)

    monkeypatch.setattr(engine, "pseudo_label", watch)
    name = "self_training+anchors+graphs"
    settings = {"schedule__steps": 6, "correct__after": 1, "correct__fade": 4, "anchors__strength": 2.0}
    results = engine.run(with_both_halves(tmp_path, methods=(name,), **settings), tmp_path / "out")
    assert strengths == [0.0, 2.0, 1.5, 1.0, 0.5, 0.0]
    judged = results[name]["pseudo_labels"]  # by anchors of full strength, whatever is left of them
    assert judged["corrected"]["fixed"] > 0


@pytest.mark.slow
def test_each_round_begins_at_the_warm_up_with_labels_of_the_last_teacher(tmp_path, monkeypatch):
    began, original = [], rounds.begin

    def watch(run, method, number, built, anchors, *, correct):
        before = copy.deepcopy(built.model.state_dict())
        original(run, method, number, built, anchors, correct=correct)
        began.append((number, built.step, correct, before, copy.deepcopy(built.model.state_dict())))

    monkeypatch.setattr(rounds, "begin", watch)
    settings = {"methods": ("rounds+anchors+graphs",), "schedule__steps": 4, "correct__after": 1}
    engine.run(with_both_halves(tmp_path, **settings), tmp_path / "out")
    warm = checkpoint.load(tmp_path / "out/warmup.pt")["model"]
    assert [entry[:3] for entry in began] == [(0, 2, False), (1, 4, True)]
    for _, _, _, _, after in began:
        assert all(torch.equal(after[name], warm[name]) for name in warm)
    assert not all(torch.equal(began[1][3][name], warm[name]) for name in warm)
    names = [sorted((tmp_path / f"out/rounds+anchors+graphs/labels_{number}").iterdir()) for number in range(2)]
    assert [len(each) for each in names] == [5, 5]  # of 9 training images 4 are labeled
    log = [entry for entry in report.read_log(tmp_path / "out/log.jsonl") if entry["method"] != "warm-up"]
    rates = [entry["lr"] for entry in log if "lr" in entry]
    assert rates[:2] == rates[2:]  # each decays as if it were the only one


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["soft", "agree"])
def test_every_kind_of_labels_trains_every_method(tmp_path, labels):
    names = ("self_training", "fixmatch+graphs", "unimatch+anchors+graphs", "mllc+anchors")
    settings = {"loss__labels": labels, "loss__dice": 1, "views__balanced": 0.5, "teacher__confidence": 0.1}
    found = engine.run(with_both_halves(tmp_path, methods=names, **settings), tmp_path / "out")
    assert [*found] == list(names)
    log = report.read_log(tmp_path / "out/log.jsonl")
    assert {"supervised", "dice", "unlabeled"} <= {key for entry in log for key in entry}


@pytest.mark.slow
def test_thresholds_that_count_over_training_do_so_where_no_graph_learns_too(tmp_path):
    """Of the released preset, sigma so low that every node is confident: 2 steps of 2 images of 8 x 8 nodes."""
    settings = {"methods": ("self_training+graphs",), "refiner__preset": "released", "refiner__sigma": 0.01}
    engine.run(with_both_halves(tmp_path, views__scale=(1.0, 1.0), **settings), tmp_path / "out")
    saved = checkpoint.load(tmp_path / "out/self_training+graphs/last.pt")
    for part in ("model", "teacher"):
        assert int(saved[part]["refiner.threshold.counts"].sum()) == 2 * 2 * 8 * 8


def test_a_round_without_correction_learns_the_labels_that_are_judged(tmp_path, monkeypatch):
    torch.manual_seed(0)
    answer, images = models.NetworkOutput(3 * torch.randn(1, 5, 8, 8), None, None), torch.zeros(1, 3, 32, 32)
    teacher = torch.nn.Identity()
    teacher.forward, teacher.module = lambda _: (answer, None), SimpleNamespace(refiner=torch.nn.Identity())
    monkeypatch.setattr(rounds.evaluation, "read_one", lambda *_: images)
    monkeypatch.setattr(rounds, "labeled_by_round", lambda *_: [datasets.Sample(tmp_path / "a", tmp_path / "a.png")])
    run = SimpleNamespace(rank=0, ranks=1, recipe=tiny(), device=torch.device("cpu"))
    rounds.label_all(run, methods.parse("rounds"), 0, SimpleNamespace(teacher=teacher), None, correct=False)
    judged = rounds.evaluation.plain_labels(answer, images, torch.zeros(1, 32, 32))
    assert torch.equal(datasets.read_mask(tmp_path / "a.png").long()[None], judged)
