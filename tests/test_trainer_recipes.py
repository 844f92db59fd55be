"""Recipes: every mistake is named, every recipe of the folder is read, and what was written is read back."""

import json
import re

import pytest
import torch
import yaml
from trainer_data import TINY, write_voc, write_volumes

recipe = pytest.importorskip("segmentation.recipe")
command = pytest.importorskip("segmentation.command")
train_voc = pytest.importorskip("train_voc")

NAMES = sorted(path.stem for path in recipe.RECIPES.glob("*.yaml"))


def write(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text)
    return str(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer: {learning_rat: 1}", "unknown key `optimizer.learning_rat`; did you mean `optimizer.learning_rate"),
        ("learning_rate: 0.1", "unknown key `learning_rate`; did you mean `optimizer.learning_rate`?"),
        ("optimizer: {steps: 10}", "unknown key `optimizer.steps`; did you mean `schedule.steps`?"),
        ("shedule: {steps: 10}", "unknown key `shedule"),
        ("schedule: {steps: many}", "expected `schedule.steps` to be an integer or null, got 'many'"),
        ("schedule: {steps: 1.5}", "expected `schedule.steps` to be an integer or null, got 1.5"),
        ("schedule: {steps: true}", "expected `schedule.steps` to be an integer or null, got True"),
        ("schedule: {steps: 0}", "expected `schedule.steps` to be at least 1, got 0"),
        ("teacher: {momentum: 1.5}", "expected `teacher.momentum` in [0, 1], got 1.5"),
        ("optimizer: {learning_rate: 0}", "expected `optimizer.learning_rate` above 0, got 0"),
        ("optimizer: {name: adam}", "expected `optimizer.name` to be one of sgd, adamw, got 'adam'"),
        ("views: {crop: [32]}", "expected `views.crop` to be a list of 2, each an integer or null, got [32]"),
        ("views: {scale: [2, 1]}", "expected `views.scale` as two numbers MIN <= MAX, got [2.0, 1.0]"),
        ("methods: [mlcc]", "`methods`: expected a method, supervised, self_training, "),
        ("methods: [fixmach+anchor]", "got 'fixmach+anchor'; did you mean 'fixmatch+anchors'?"),
        ("methods: [supervised+graphs]", "expected supervised without a correction"),
        ("methods: [fixmatch+none]", "got 'fixmatch+none'"),
        ("anchors: {use: true}", "`anchors.use` is said by the methods: mllc+anchors, or mllc without them now"),
        ("loss: {soft: true}", "`loss.soft` is `loss.labels: soft` now"),
        ("methods: [rounds]\nloss: {labels: soft}", "expected `loss.labels` hard beside rounds"),
        ("loss: {unlabeled_cross_entropy: 0}", "expected `loss.unlabeled_cross_entropy` or `loss.dice` and"),
        ("network: {encoder_depth: 4}\nanchors: {keys: initial, levels: 5}", "among the encoder's 4, got [5]"),
        ("anchors: 3", "expected `anchors` to be a section of keys, got 3"),
        ("schedule: {labeled_batch: 6, accumulate: 4}", "at least 2 images for each of 4 part(s), got 6"),
        ("schedule: {steps: null}", "expected `schedule.steps` or `schedule.epochs`, got null for both"),
        ("loss: {slg_weight: 0, clg_weight: 0, pixel_weight: 0}", "expected a weight above 0 for mllc, got 0 for"),
        ("base: digit", "expected a recipe's name or file, got 'digit'; did you mean 'digits'?"),
        ("a: [", "is no YAML"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        recipe.load(write(tmp_path, text))


def test_numbers_are_read_as_people_write_them(tmp_path):
    text = "optimizer: {learning_rate: 1e-3, head_factor: 3}\ndata: {labeled: 60}\nloss:\n"
    read = recipe.load(write(tmp_path, text))
    assert read.optimizer.learning_rate == 0.001
    assert isinstance(read.optimizer.head_factor, float)
    assert read.data.labeled == "60"


def test_bases_that_go_in_a_circle_are_refused(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(f"base: {second}")
    second.write_text(f"base: {first}")
    with pytest.raises(ValueError, match="in a circle"):
        recipe.load(str(first))


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_read_and_written_back(name, tmp_path):
    read = recipe.load(name)
    text = yaml.safe_dump(recipe.as_dict(read))
    assert recipe.from_dict(yaml.safe_load(text), "text") == read
    # also as a file of its own, and through a checkpoint that may hold plain values only
    assert recipe.load(write(tmp_path, text)) == read
    torch.save(recipe.as_dict(read), tmp_path / "recipe.pt")
    assert recipe.from_dict(torch.load(tmp_path / "recipe.pt", weights_only=True), "checkpoint") == read


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "expected `schedule.steps` to be at least 1, got 0"),
        (["--ema", "1.5"], "expected `teacher.momentum` in [0, 1], got 1.5"),
        (["--scale", "2", "1"], "expected `views.scale` as two numbers MIN <= MAX"),
        (["--set", "optimiser.lr=1"], "unknown key `optimiser.lr`"),
        (["--set", "optimizer"], "expected --set KEY=VALUE, got 'optimizer'"),
        (["--recipe", "digitz"], "did you mean 'digits'?"),
        (["--resume"], "expected a run to resume in --out"),
    ],
)
def test_a_bad_option_is_named_before_any_work(arguments, message, capsys, tmp_path):
    with pytest.raises(SystemExit):
        train_voc.parse([*arguments, "--out", str(tmp_path)])
    assert message in capsys.readouterr().err


def test_flags_and_set_lay_over_the_recipe(tmp_path):
    given = train_voc.parse(["--steps", "7", "--set", "views.mix=classmix", "evaluation.scales=[0.5, 1]",
                             "--method", "mllc", "fixmatch+graphs+anchors", "--batch-size", "6"])  # fmt: skip
    read = given.recipe
    assert (read.schedule.steps, read.schedule.labeled_batch, read.schedule.unlabeled_batch) == (7, 6, 6)
    assert (read.views.mix, read.evaluation.scales, read.methods) == (
        "classmix",
        (0.5, 1.0),
        ("mllc", "fixmatch+anchors+graphs"),
    )
    assert read.data.layout == "digits"
    named = ["--method", "fixmatch+anchors+graphs", "fixmatch+graphs", "mllc+anchors", "--no-anchors"]
    assert train_voc.parse([*named, "--out", str(tmp_path)]).recipe.methods == ("fixmatch+graphs", "mllc")
    split = train_voc.parse(["--labeled", "1_8", "--set", "data.test=null"]).recipe  # YAML reads 1_8 as 18
    assert (split.data.labeled, split.data.test) == ("1_8", None)
    folder = train_voc.parse(["--data", "camvid:somewhere", "--smoke"]).recipe
    assert (folder.data.layout, folder.data.folder, folder.schedule.steps) == ("camvid", "somewhere", 3)
    folder = train_voc.parse(["--data", "pairs:some:where", "--smoke"]).recipe
    assert (folder.data.layout, folder.data.folder) == ("pairs", "some:where")


def test_an_unfinished_run_is_not_overwritten_by_mistake(tmp_path, capsys):
    (tmp_path / "resume.pt").write_bytes(b"what a night has computed")
    with pytest.raises(SystemExit):
        train_voc.parse(["--out", str(tmp_path)])
    assert "--resume goes on with it" in capsys.readouterr().err
    assert train_voc.parse(["--out", str(tmp_path), "--overwrite"]).out == tmp_path


def test_a_resumed_run_keeps_what_decides_its_outcome(tmp_path, capsys):
    command.write_recipe(train_voc.parse(["--steps", "9"]).recipe, tmp_path)
    again = train_voc.parse(["--out", str(tmp_path), "--resume", "--workers", "3"])
    assert (again.recipe.schedule.steps, again.recipe.running.workers, again.resume) == (9, 3, True)
    with pytest.raises(SystemExit):
        train_voc.parse(["--out", str(tmp_path), "--resume", "--steps", "10"])
    assert "expected `schedule.steps` as the run began, 9, got 10" in capsys.readouterr().err


def test_a_dry_run_tells_the_cost_and_leaves_nothing(tmp_path, capsys):
    command.main(train_voc.parse(["--dry-run", "--out", str(tmp_path / "run"), "--set", "data.scenes=[12, 8]",
                                  "--labeled", "4"]))  # fmt: skip
    printed = capsys.readouterr().out
    assert "learning_rate: 0.001" in printed
    assert "4 labeled, 8 unlabeled, 8 to test on" in printed
    assert re.search(r"network: \d+\.\d\d M parameters", printed)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_speed_is_measured_with_and_without_correction(tmp_path, capsys):
    small = [f"{key}={list(value) if isinstance(value, tuple) else value}" for key, value in TINY.items()]
    command.main(train_voc.parse(["--measure", "2", "--out", str(tmp_path), "--set", *small, "data.scenes=[12, 8]",
                                  "data.labeled=4"]))  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    methods = train_voc.parse([]).recipe.methods
    assert {name: len(samples) for name, samples in found["samples"].items()} == dict.fromkeys(methods, 2)
    seconds = found["seconds_per_step"]
    assert found["images_per_second"]["fixmatch"] == pytest.approx(4 / seconds["fixmatch"])
    assert found["images_per_second"]["supervised"] == pytest.approx(2 / seconds["supervised"])
    share = 1 - seconds["unimatch"] / seconds["unimatch+anchors+graphs"]
    assert found["share_of_correction"]["unimatch+anchors+graphs"] == pytest.approx(share)
    assert found["loader_images_per_second"] > 0


def test_measuring_leaves_a_run_that_is_there_as_it_is(tmp_path, monkeypatch, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/labeled.txt").write_text("what was trained on")
    monkeypatch.setattr(command.speed, "build", lambda *_: pytest.fail("measured"))
    given = ["--measure", "1", "--out", str(tmp_path / "run"), "--set", "data.labeled=4", "running.device=cpu"]
    folder = write_voc(tmp_path / "voc", size=(32, 32))
    monkeypatch.setattr(command.speed, "_seconds_of", lambda batches: [1.0, 1.0])
    with pytest.raises(pytest.fail.Exception):
        command.work(train_voc.parse([*given, "--data", str(folder)]))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["labeled.txt"]
    assert (tmp_path / "run/labeled.txt").read_text() == "what was trained on"


def test_lists_of_the_data_set_mean_the_same_from_everywhere(tmp_path, monkeypatch):
    folder, elsewhere = write_volumes(tmp_path / "hearts"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "test.txt").write_text("another list of this name")
    monkeypatch.setattr(command, "run", lambda *given, **named: None)
    given = ["--recipe", "acdc_3", "--data", str(folder), "--out", str(tmp_path / "run"), "--set", "data.test=test.txt"]
    monkeypatch.chdir(tmp_path)
    command.main(train_voc.parse(given))
    monkeypatch.chdir(elsewhere)
    for read in (recipe.load(str(tmp_path / "run/recipe.yaml")), command.resumed(tmp_path / "run", {})):
        assert read.data.test == str(folder / "test.txt")
        assert read.data.labeled == str(folder / "labeled_3cases.txt")
    again = {"data.folder": str(folder), "data.labeled": "labeled_3cases.txt"}
    assert command.resumed(tmp_path / "run", again).data == read.data
    with pytest.raises(ValueError, match="expected `data.labeled` as the run began"):
        command.resumed(tmp_path / "run", {"data.labeled": "test.txt"})


def test_a_run_of_an_earlier_version_goes_on_with_its_lists(tmp_path):
    folder = write_volumes(tmp_path / "hearts")
    began = recipe.load("acdc_3", {"data.folder": str(folder)})
    command.write_recipe(began, tmp_path)
    assert command.resumed(tmp_path, {"data.labeled": "labeled_3cases.txt"}).data == began.data


def test_a_part_of_a_step_brings_a_part_of_its_images(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command.speed, "_seconds_of", lambda batches: [1.0, 1.0])
    small = [f"{key}={list(value) if isinstance(value, tuple) else value}" for key, value in TINY.items()]
    given = ["--measure", "1", "--out", str(tmp_path), "--method", "supervised", "--set", *small]
    given += ["data.labeled=4", "schedule.labeled_batch=4", "schedule.unlabeled_batch=4", "schedule.accumulate=2"]
    folder = write_voc(tmp_path / "voc", size=(32, 32))
    command.work(train_voc.parse([*given, "--data", str(folder)]))
    assert json.loads(capsys.readouterr().out)["loader_images_per_second"] == 4
