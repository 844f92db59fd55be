"""reproduce: the files of its runs broken in each way: their name, or a table with the row in it; never a trace."""

import json
import shutil

import pytest
from broken_files import FORMS, answer, check, spoiled
from small_rows import SET
from trainer_data import write_cityscapes

paper = pytest.importorskip("segmentation.extras.paper")
command = pytest.importorskip("segmentation.command")
reproduce = pytest.importorskip("reproduce")
recipes = pytest.importorskip("segmentation.recipe")

ROW = "no_omega"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A row that is finished and one that was stopped, as their runs leave them."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = paper.rows()[ROW].recipe()
    for name in (ROW, "neighbors_15"):
        (folder / name).mkdir()
        command.write_recipe(recipe, folder / name)
        entry = {"method": "mllc", "step": 7, "teacher_miou": 0.5, "student_miou": 0.5}
        (folder / name / "log.jsonl").write_text(2 * (json.dumps(entry) + "\n"))
    results = {
        "config": recipes.as_dict(recipe),
        "methods": {method: {"student_miou": 0.5} for method in recipe.methods},
    }
    (folder / ROW / "results.json").write_text(json.dumps(results))
    return folder


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [f"{ROW}/results.json", f"{ROW}/log.jsonl"])
def test_a_broken_file_of_a_run_is_named(runs, name, form, capsys):
    for mode in (["--collect"], []):
        with spoiled(runs / name, form):
            code, text = answer(reproduce.run, [*mode, "--out", runs], capsys)
            if (
                form in ("text", "cut", "flipped", "zeros", "web page", "empty")
                and name.endswith("log.jsonl")
                and not code
            ):
                continue  # the log of a run that was killed: what is whole of it counts, and the results are there
            check(form, runs / name, code, text, ROW in text and "50.00" in text)


@pytest.mark.parametrize("form", FORMS)
def test_the_recipe_of_a_stopped_run_is_never_taken_for_no_run(runs, form, capsys):
    recipe = runs / "neighbors_15/recipe.yaml"
    if form in ("link", "cut", "flipped"):
        pytest.skip("a recipe of its own, which the trainer's tests go on with")
    with spoiled(recipe, form):
        code, text = answer(reproduce.run, ["--run", "neighbors_15", "--out", runs, "--set", *SET], capsys)
        check(form, recipe, code, text, None)
        assert code


@pytest.mark.parametrize("form", [form for form in FORMS if form not in ("link", "flipped", "cut")])
def test_a_broken_list_of_a_split_is_named(runs, form, capsys, tmp_path):
    data = write_cityscapes(tmp_path / "city", train=6, val=2)
    images = [path.relative_to(data).as_posix() for path in sorted(data.glob("leftImg8bit/train/*/*.png"))]
    listed = tmp_path / "splits/1_8/labeled.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("\n".join(images[:3]))
    row = ["--run", "no_clg" if "no_clg" in paper.rows() else ROW, "--out", tmp_path / "out"]
    with spoiled(listed, form):
        code, text = answer(
            reproduce.run, [*row, "--cityscapes", data, "--splits", tmp_path / "splits", "--set", *SET], capsys
        )
        assert code
        assert "labeled.txt" in text or "doing here" in text  # a line that stands for no image


def test_rows_that_have_finished_nothing_are_said(runs, capsys):
    code, text = answer(reproduce.run, ["--collect", "--out", runs], capsys)
    assert code == 0
    assert "not in the table: neighbors_15" in text


@pytest.mark.parametrize("mode", [["--run", ROW], ["--collect"], []])
def test_an_out_that_cannot_be_written_is_named(tmp_path, mode, capsys):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file/below", tmp_path / ("x" * 300)):
        code, text = answer(reproduce.run, [*mode, "--out", out], capsys)
        assert code or not mode
        assert "Traceback" not in text
        assert "expected --out" in text or not mode


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"methods": {}}, "results.json: .*has no 'config'"),
        ({"config": {"schedule": {}, "methods": []}, "methods": {"mllc": {}}}, "results.json: .*'student_miou'"),
        ([1, 2], "results.json: "),
        ("text", "results.json: "),
    ],
)
def test_results_of_odd_content_are_named(runs, content, message, tmp_path):
    shutil.copytree(runs / ROW, tmp_path / ROW)
    (tmp_path / ROW / "results.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        reproduce.status(tmp_path / ROW)


def test_a_run_without_a_score_stays_in_the_table(runs, capsys, tmp_path):
    shutil.copytree(runs / ROW, tmp_path / ROW)
    content = json.loads((runs / ROW / "results.json").read_text())
    content["methods"]["mllc"]["student_miou"] = None  # no class was there
    (tmp_path / ROW / "results.json").write_text(json.dumps(content))
    code, text = answer(reproduce.run, ["--collect", "--out", tmp_path], capsys)
    assert code == 0
    assert f"| {ROW} | mllc | 65.41 | nan |" in text


def test_a_run_that_found_no_data_is_begun_anew(tmp_path, capsys):
    asked = ["--run", ROW, "--out", tmp_path, "--set", *SET]
    assert "data.folder" in answer(reproduce.run, asked, capsys)[1]
    code, text = answer(reproduce.run, [*asked, "--cityscapes", tmp_path / "nowhere"], capsys)
    assert code == 1
    assert "expected `data.folder` to be a folder" in text
