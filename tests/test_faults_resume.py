"""A run goes on as it began, or says what changed; a warm-up and a recipe mean what they meant where they were made."""

import os
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from trainer_data import small, write_voc

checkpoint = pytest.importorskip("segmentation.checkpoint")
command = pytest.importorskip("segmentation.command")
engine = pytest.importorskip("segmentation.engine")
layouts = pytest.importorskip("segmentation.layouts")
manifest = pytest.importorskip("segmentation.manifest")
recipes = pytest.importorskip("segmentation.recipe")
running = pytest.importorskip("segmentation.running")
state = pytest.importorskip("segmentation.state")
train_voc = pytest.importorskip("train_voc")

CLASSES = [f"class {number}" for number in range(21)]


class Killed(Exception):
    pass


def begun(recipe, out, monkeypatch):
    """A run that was killed after its warm-up of one step."""
    out.mkdir()
    command.write_recipe(recipe, out)
    saved = engine.save

    def save(*given):
        saved(*given)
        raise Killed

    monkeypatch.setattr(engine, "save", save)
    with pytest.raises(Killed):
        engine.run(recipe, out)
    monkeypatch.setattr(engine, "save", saved)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A folder of data and a run on it that was killed, to be copied."""
    folder = tmp_path_factory.mktemp("killed")
    write_voc(folder / "voc")
    (folder / "voc/classes.txt").write_text("\n".join(CLASSES))
    with pytest.MonkeyPatch.context() as patch:
        begun(small(folder / "voc"), folder / "run", patch)
    return folder


def add(voc):
    for place, ending in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        shutil.copy(voc / place / f"2007_000003.{ending}", voc / place / f"2007_000003b.{ending}")
    listed = voc / "ImageSets/Segmentation/train.txt"
    listed.write_text(listed.read_text() + "\n2007_000003b")


def edit(name, change):
    def edited(voc):
        path = voc / name
        path.write_text(change(path.read_text()))

    return edited


def relabel(voc):
    path = voc / "SegmentationClass/2007_000002.png"
    mask = np.array(Image.open(path))
    Image.fromarray((mask + 1) % 21).save(path)


def repaint(voc):
    for path in (voc / "SegmentationClass").iterdir():
        mask = Image.open(path)
        mask.putpalette(list(range(256)) * 3)
        mask.save(path)


TRAIN, VAL = "ImageSets/Segmentation/train.txt", "ImageSets/Segmentation/val.txt"
CHANGES = {
    "an image more": (add, "JPEGImages/2007_000003b.jpg: is new among the images"),
    "an image less": (edit(TRAIN, lambda text: text.replace("2007_000003\n", "")), "2007_000003.jpg: is no longer"),
    "a test image less": (edit(VAL, lambda text: text.replace("2007_000009\n", "")), "2007_000009.jpg: is no longer"),
    "another name": (edit("classes.txt", lambda text: text.replace("class 3", "cow")), "class 3 was 'class 3'"),
    "a class more": (edit("classes.txt", lambda text: text + "\ncow"), "there were 21 classes"),
    "a mask painted over": (relabel, "SegmentationClass/2007_000002.png: has another content"),
    "another palette": (repaint, "SegmentationClass/2007_000000.png: has another content"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CHANGES)
def test_a_run_does_not_go_on_with_another_data_set(killed, tmp_path, kind):
    change, words = CHANGES[kind]
    shutil.copytree(killed / "voc", tmp_path / "voc")
    shutil.copytree(killed / "run", tmp_path / "run")
    recipe = small(tmp_path / "voc")
    moved = checkpoint.load(tmp_path / "run/resume.pt")
    moved["began_with"]["recipe"]["data.folder"] = str(tmp_path / "voc")
    checkpoint.save(moved, tmp_path / "run/resume.pt")
    before = (tmp_path / "run/labeled.txt").read_bytes()
    change(tmp_path / "voc")
    with pytest.raises(ValueError, match="expected data set and recipe that the run began with") as caught:
        engine.run(recipe, tmp_path / "run", resume=True)
    assert words in str(caught.value)
    assert (tmp_path / "run/labeled.txt").read_bytes() == before


def test_a_run_goes_on_with_lists_in_another_order_and_spelling(killed, tmp_path):
    shutil.copytree(killed / "run", tmp_path / "run")
    listed = killed / "voc" / TRAIN
    before = listed.read_text()
    listed.write_text("\r\n".join(f"JPEGImages/{name}.jpg" for name in reversed(before.split())))
    try:
        data, crop, _ = engine.prepare(
            small(killed / "voc"), tmp_path / "run", checkpoint.load(tmp_path / "run/resume.pt"), resume=True, rank=0
        )
    finally:
        listed.write_text(before)
    drawn = layouts.open_data(small(killed / "voc").data, 0, tmp_path / "again")
    assert data.labeled == drawn.labeled
    assert data.unlabeled == drawn.unlabeled
    assert crop == (32, 32)


def test_an_edited_list_is_named_and_one_in_another_order_is_none(tmp_path):
    folder = write_voc(tmp_path / "voc")
    labeled, recipe = tmp_path / "labeled.txt", small(folder, data__labeled=str(tmp_path / "labeled.txt"))

    def opened(*numbers):
        labeled.write_text("\n".join(f"2007_{number:06d}" for number in numbers))
        return layouts.open_data(recipe.data, 0, tmp_path / "out")

    first = opened(1, 2, 3)
    began = manifest.describe(first, recipe, (32, 32), {})
    again = manifest.as_it_began(opened(3, 1, 2), recipe, began, {})
    assert (again.labeled, again.unlabeled) == (first.labeled, first.unlabeled)
    with pytest.raises(ValueError, match="2 difference") as caught:
        manifest.as_it_began(opened(1, 2, 5), recipe, began, {})
    assert "JPEGImages/2007_000003.jpg: was labeled, is unlabeled" in str(caught.value)
    assert "JPEGImages/2007_000005.jpg: was unlabeled, is labeled" in str(caught.value)
    test = first._replace(test=first.test[:1], held_out=first.test[1:])
    with pytest.raises(ValueError, match=r"2007_000009.jpg: was test, is held out"):
        manifest.as_it_began(test, recipe, began, {})


def test_a_recipe_that_was_edited_is_named(killed, tmp_path):
    shutil.copytree(killed / "run", tmp_path / "run")
    with pytest.raises(ValueError, match="`optimizer.learning_rate` was 0.001, is 0.5"):
        engine.run(small(killed / "voc", optimizer__learning_rate=0.5), tmp_path / "run", resume=True)
    (tmp_path / "run/recipe.yaml").write_text("data: {labeled: 3}")
    with pytest.raises(ValueError, match="expected the whole recipe of a run, got one without anchors"):
        command.resumed(tmp_path / "run", {})


def test_before_its_first_checkpoint_a_run_keeps_its_lists_too(tmp_path):
    folder, recipe = write_voc(tmp_path / "voc"), small(tmp_path / "voc")
    layouts.open_data(recipe.data, 0, tmp_path / "run")
    before = (tmp_path / "run/labeled.txt").read_text()
    add(folder)
    with pytest.raises(ValueError, match="expected the images that the run began with"):
        engine.run(recipe, tmp_path / "run", resume=True)
    assert (tmp_path / "run/labeled.txt").read_text() == before


def test_what_is_no_checkpoint_to_go_on_from_is_named(tmp_path):
    torch.save({"step": 3}, tmp_path / "resume.pt")
    with pytest.raises(ValueError, match=r"resume.pt to be what a run goes on from, got one without log_bytes"):
        checkpoint.load_resume_point(tmp_path, 1)
    torch.save([1, 2], tmp_path / "resume.pt")
    with pytest.raises(ValueError, match="expected a checkpoint of this trainer; holds list"):
        checkpoint.load_resume_point(tmp_path, 1)
    (tmp_path / "results.json").write_text('{"methods": {"supervised": {}}}')
    (tmp_path / "resume.pt").unlink()
    with pytest.raises(ValueError, match="is finished"):
        engine.run(small(tmp_path), tmp_path, resume=True)


def test_a_run_that_is_killed_at_once_is_not_taken_for_the_one_before(tmp_path, monkeypatch):
    folder, out = write_voc(tmp_path / "voc"), tmp_path / "run"
    out.mkdir()
    (out / "results.json").write_text('{"methods": {"supervised": {}}}')

    def killed(*_):
        raise Killed

    monkeypatch.setattr(engine, "train", killed)
    for resume in (False, True):
        with pytest.raises(Killed):
            engine.run(small(folder), out, resume=resume)


# --- a warm-up of another run


def warmed(recipe, names):
    built = state.build(recipe, len(names), torch.device("cpu"))
    built.step = recipe.schedule.warmup
    return built.state_dict() | {"recipe": recipes.as_dict(recipe), "class_names": names}


STARTS = {
    "fewer classes": ({}, ["a", "b"], "got one of 2 classes, a, b; here: class 0"),
    "other classes": ({}, ["cow", *CLASSES[1:]], "got one of 21 classes, cow, class 1"),
    "another network": ({"network__feature_dim": 16}, CLASSES, "`network.feature_dim` 16; here: 8"),
    "another rate": ({"optimizer__learning_rate": 0.5}, CLASSES, "`optimizer.learning_rate` 0.5; here: 0.001"),
    "another length": ({"schedule__warmup": 7}, CLASSES, "got one of 7 steps, `schedule.warmup` is 1"),
}


def expect_refused(saved, words):
    built = state.build(small("."), len(CLASSES), torch.device("cpu"))
    with pytest.raises(ValueError, match="expected --start to be the warmup.pt of a run with these settings") as caught:
        running.load_warmup(built, saved, small("."), CLASSES, "--start")
    assert words in str(caught.value)


@pytest.mark.parametrize("kind", STARTS)
def test_a_warmup_of_another_run_is_refused(kind):
    more, names, words = STARTS[kind]
    expect_refused(warmed(small(".", **more), names), words)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("fewer classes", " weights that differ, such as network.classifier"),
        ("another network", " there, "),
        ("another length", "got one of 7 steps"),
    ],
)
def test_a_warmup_that_does_not_say_its_settings_is_told_by_its_weights(kind, words):
    more, names, _ = STARTS[kind]
    saved = warmed(small(".", **more), names)
    del saved["recipe"], saved["class_names"]  # as earlier versions wrote it
    expect_refused(saved, words)
    expect_refused({"weights": 1}, "got a file without them: weights")


def test_a_warmup_of_the_same_settings_is_taken():
    saved = warmed(small("."), CLASSES)
    built = state.build(small(".", methods=("mllc",), refiner__neighbors=3), len(CLASSES), torch.device("cpu"))
    running.load_warmup(built, saved, small("."), CLASSES, "--start")
    assert built.step == 1


# --- paths of recipes


def test_paths_mean_what_they_meant_where_they_were_typed(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "here").mkdir()
    for place in ("recipes/beside", "here/voc"):
        write_voc(tmp_path / place)
    (tmp_path / "recipes/base.yaml").write_text("data: {folder: beside, labeled: lists/my.txt}")
    (tmp_path / "recipes/mine.yaml").write_text("base: base.yaml\ndata: {classes: ../names.txt}")
    (tmp_path / "names.txt").write_text("a\nb")
    monkeypatch.chdir(tmp_path / "here")
    read = recipes.load("../recipes/mine.yaml")
    assert os.path.samefile(read.data.folder, tmp_path / "recipes/beside")
    assert read.data.labeled == "lists/my.txt"  # not there: it may be one of the data set's folder
    assert os.path.samefile(read.data.classes, tmp_path / "names.txt")
    typed = train_voc.parse(["--data", "voc", "--labeled", "1/2", "--out", str(tmp_path / "run")])
    monkeypatch.setattr(command, "run", lambda *given, **named: None)
    command.main(typed)
    monkeypatch.chdir(tmp_path)
    again = train_voc.parse(["--resume", "--out", "run"]).recipe.data
    assert (again.folder, again.labeled) == (str(tmp_path / "here/voc"), "1/2")
    assert train_voc.parse(["--resume", "--out", "run", "--data", "here/voc"]).recipe.data == again
    assert recipes.load(str(tmp_path / "run/recipe.yaml")).data == again
    stored = yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())
    assert (stored["network"]["weights"], stored["schedule"]["start"]) == ("auto", None)
