"""evaluate: each of its files broken in each way. A result with the file in it, or its name; never a trace."""

import json
import shutil

import pytest
from broken_files import FORMS, answer, check, spoiled
from small_checkpoint import write_run

evaluate = pytest.importorskip("evaluate")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    write_run(folder / "run")
    write_run(folder / "other", data=folder / "run/voc")
    return folder


def evaluated(folder, capsys, *more):
    shutil.rmtree(folder / "out", ignore_errors=True)
    best = folder / "run/mllc/best.pt"
    return answer(evaluate.run, [best, "--device", "cpu", "--pictures", "0", "--out", folder / "out", *more], capsys)


def count(folder):
    """Images in the result, by its own word and by its masks."""
    if not (folder / "out/scores.json").is_file():
        return None
    said = json.loads((folder / "out/scores.json").read_text())["images"]
    assert said == len(list((folder / "out/labels").rglob("*.png")))
    return said


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["JPEGImages/2007_000005.jpg", "SegmentationClass/2007_000005.png"])
def test_a_broken_file_of_the_data_is_named_or_used(folder, name, form, capsys):
    with spoiled(folder / "run/voc" / name, form):
        code, text = evaluated(folder, capsys)
        check(form, folder / "run/voc" / name, code, text, count(folder) == 3)


@pytest.mark.parametrize("form", FORMS)
def test_a_broken_image_of_a_folder_is_named_or_used(folder, form, capsys):
    images = folder / "run/voc/JPEGImages"
    with spoiled(images / "2007_000001.jpg", form):
        code, text = evaluated(folder, capsys, "--images", images)
        check(form, images / "2007_000001.jpg", code, text, count(folder) == 7)


@pytest.mark.parametrize("form", FORMS)
def test_a_broken_checkpoint_is_named(folder, form, capsys):
    for path in (folder / "run/mllc/best.pt", folder / "other/mllc/best.pt"):
        with spoiled(path, form):
            code, text = evaluated(folder, capsys, "--beside", folder / "other/mllc/best.pt")
            check(form, path, code, text, form == "link")


@pytest.mark.parametrize("form", FORMS)
def test_broken_settings_of_an_earlier_evaluation_are_named(folder, form, capsys):
    images = folder / "run/voc/JPEGImages"
    arguments = [folder / "run/mllc/best.pt", "--device", "cpu", "--out", folder / "again", "--images", images]
    assert answer(evaluate.run, [*arguments, "--scales", "1"], capsys)[0] == 0
    with spoiled(folder / "again/settings.json", form):
        code, text = answer(evaluate.run, [*arguments, "--scales", "2"], capsys)
        assert code
        assert "settings.json" in text
    shutil.rmtree(folder / "again")
