"""Every recipe goes through the whole trainer in small: true layouts, tiny crops, all methods; and the paper's rows."""

import json

import pytest
import torch
from trainer_data import TINY, tiny, write_camvid, write_cityscapes, write_voc, write_volumes

checkpoint = pytest.importorskip("segmentation.checkpoint")
engine = pytest.importorskip("segmentation.engine")
layouts = pytest.importorskip("segmentation.layouts")
losses = pytest.importorskip("segmentation.losses")
method = pytest.importorskip("segmentation.method")
paper = pytest.importorskip("segmentation.extras.paper")
recipes = pytest.importorskip("segmentation.recipe")
report = pytest.importorskip("segmentation.report")
split = pytest.importorskip("segmentation.split")
state = pytest.importorskip("segmentation.state")

WRITERS = {"voc": write_voc, "cityscapes": write_cityscapes, "camvid": write_camvid, "pairs": write_volumes}
# The recipe's own architecture on the smallest backbone of its kind: test_examples.py builds the real ones.
SMALL = {"resnet101": "resnet18", "tu-resnet101": "tu-resnet18", "mit_b2": "mit_b0"}
METHODS = ("supervised", "self_training", "fixmatch", "mllc+anchors")
NAMES = sorted({path.stem for path in recipes.RECIPES.glob("*.yaml")} - {"paper", "acdc_1", "acdc_7"})  # as acdc_3


def small(recipe_of, folder=None, **more):
    """A recipe or row in small."""
    whole = recipe_of({})
    keys = TINY | {"network.backbone": SMALL.get(whole.network.backbone, whole.network.backbone)}
    keys |= {"running.workers": 0, "running.precision": "fp32", "running.tensorboard": False, "data.held_out": 0}
    if whole.data.resize is not None:
        keys["data.resize"] = (32, 64)
    if whole.data.layout == "digits":
        keys |= {"data.scenes": (10, 8)}
    else:
        keys["data.folder"] = str(folder)
    return recipe_of(keys | {"data.labeled": "4"} | more)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_trains_on_its_layout_with_all_methods(name, tmp_path):
    layout = recipes.load(name).data.layout
    folder = None if layout == "digits" else WRITERS[layout if layout != "auto" else "voc"](tmp_path / "data")
    recipe = small(lambda keys: recipes.load(name, keys), folder, methods=METHODS)
    out = tmp_path / "out"
    results = engine.run(recipe, out)
    assert [*results] == list(METHODS)
    trained = {method for method in METHODS if results[method]["refiner_trained"]}
    assert trained == ({"mllc+anchors"} if recipe.loss.slg_weight or recipe.loss.clg_weight else set())
    assert json.loads((out / "results.json").read_text())["config"]["network"]["architecture"] == (
        recipe.network.architecture
    )
    for method in METHODS:
        assert 0 <= results[method]["teacher_miou"] <= 1
        assert 0 <= results[method]["pseudo_labels"]["corrected"]["miou"] <= 1
        saved = checkpoint.load(out / method / "last.pt")
        assert saved["step"] == recipe.schedule.warmup + recipe.schedule.steps
        assert recipes.from_dict(saved["recipe"], "checkpoint") == recipe
        assert (out / f"pseudo_labels_{method}.png").stat().st_size > 1000
    for name in ("curves.png", "pseudo_label_quality.png", "labeled.txt"):
        assert (out / name).stat().st_size > 0
    log = report.read_log(out / "log.jsonl")
    assert all(torch.isfinite(torch.tensor(entry["supervised"])) for entry in log if "supervised" in entry)
    assert {"pseudo_before_miou", "pseudo_after_miou"} <= {key for entry in log for key in entry}
    assert not (out / "resume.pt").exists()


def test_probabilities_of_one_class_are_learned_as_its_label():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(3, (2, 4, 5))
    sure = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    labels[0, :2] = 255
    torch.testing.assert_close(losses.cross_entropy(logits, labels, targets=sure), losses.cross_entropy(logits, labels))
    even = torch.full_like(sure, 1 / 3)
    expected = -logits.log_softmax(1).mean(1)[labels != 255].mean()
    torch.testing.assert_close(losses.cross_entropy(logits, labels, targets=even), expected)


def one_step(recipe, folder):
    """Losses and the gradient of all weights, after one step of mllc with a network that is sure of itself."""
    data = layouts.open_data(recipe.data, 0, folder)
    log, progress = report.Log(None), engine.Progress()
    run = engine.Run(recipe, data, folder, torch.device("cpu"), recipe.views.crop, 2, log, progress, 0, 1)
    built = state.build(recipe, len(data.class_names), run.device)
    torch.manual_seed(0)
    for branch in built.model.network.classifier.branches:
        torch.nn.init.normal_(branch.weight, std=0.2)
    built.teacher.momentum = 0.0
    built.teacher.update(built.model)
    views = [next(run.batches(0, 1, unlabeled=unlabeled)) for unlabeled in (False, True)]
    built.step = recipe.schedule.warmup
    losses, _ = engine.losses_of(
        method.parse("mllc"), built.model.train(), built, run, *views, state.new_correction(recipe)
    )
    sum(losses.values()).backward()
    gradient = [weight.grad.flatten() for weight in built.model.parameters() if weight.grad is not None]
    return losses, torch.cat(gradient)


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """Cityscapes in small, and the gradient of the paper's setting on it."""
    folder = write_cityscapes(tmp_path_factory.mktemp("rows") / "data")
    return folder, one_step(ablation("neighbors_20", folder), folder)[1]


def ablation(name, folder):
    """A row in small: 8 x 8 nodes, so that "all" neighbors are 63."""
    row = paper.rows()[name]
    settings = row.settings | ({"refiner.neighbors": 63} if name == "neighbors_all" else {})
    kept = {"views.crop": (64, 64), "data.resize": (64, 128), "refiner.neighbors": 20}
    return small(row.recipe, folder, **kept | settings)


ABLATIONS = [name for name, row in paper.rows().items() if row.settings.get("methods") == ["mllc"]]
# The last row of each set of keys: the others differ in a number alone. The first set is that of the paper's setting.
CHANGING = list({tuple(paper.rows()[name].settings): name for name in ABLATIONS}.values())[1:]


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGING)
def test_every_ablation_changes_what_is_learned(name, usual):
    folder, gradient = usual
    losses, changed = one_step(ablation(name, folder), folder)
    assert torch.isfinite(changed).all()
    assert losses.keys() == {"supervised", "correction"}
    assert changed.shape != gradient.shape or not torch.allclose(changed, gradient, rtol=1e-3, atol=1e-6)


def test_the_rows_are_those_of_the_paper():
    rows = paper.rows()
    for name, row in rows.items():
        recipe = row.recipe()
        assert not any(method.parse(each).uses_anchors for each in recipe.methods), name
        assert set(row.published) <= set(recipe.methods), name
        assert recipe.schedule.labeled_batch + recipe.schedule.unlabeled_batch == 16
    tables = [title for title in dict.fromkeys(row.title for row in rows.values()) if not title.startswith(("A", "Se"))]
    assert len(tables) == 6  # Tables I to V and the SegFormer row
    assert rows["voc_v2_1_20"].recipe().data.labeled == "529"
    # Published counts come out of the shares of 2975 and 10582 images
    for name in ("cityscapes_v3plus_1_16", "cityscapes_v3plus_1_8", "cityscapes_v2_1_4", "voc_v3plus_1_8"):
        images = rows[name].recipe().data.expected_images
        assert str(split.number_labeled(rows[name].recipe().data.labeled, images)) == rows[name].lists[1]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_and_every_option_of_a_test(precision, tmp_path):
    recipe = tiny(
        "folder", methods=("mllc",), data__folder=str(write_voc(tmp_path / "voc", val=2)), data__labeled="4",
        running__precision=precision, running__tensorboard=True, network__encoder_depth=4, views__mix="classmix",
        evaluation__mode="sliding", evaluation__scales=(0.75, 1.0), evaluation__flip=True, evaluation__times=2,
    )  # fmt: skip
    results = engine.run(recipe, tmp_path / "out")
    assert 0 <= results["mllc"]["teacher_miou"] <= 1
    log = report.read_log(tmp_path / "out/log.jsonl")
    assert sum("teacher_miou" in entry for entry in log) == 2
    assert all(torch.isfinite(torch.tensor(entry["correction"])) for entry in log if "correction" in entry)
    assert {path.parent.name for path in (tmp_path / "out/tensorboard").glob("*/events*")} == {"warm-up", "mllc"}
    dtypes = {weight.dtype for weight in checkpoint.load(tmp_path / "out/mllc/last.pt")["model"].values()}
    assert not dtypes & {torch.bfloat16, torch.float16}  # weights stay float32


def test_ablated_threshold_asks_the_same_of_every_class():
    probabilities = torch.tensor([[0.96, 0.04], [0.1, 0.9]])
    assert state.EqualThreshold(2, 0.95).is_confident(probabilities).tolist() == [True, False]
    assert state.DynamicThreshold(2, 0.95).is_confident(probabilities).tolist() == [True, True]
