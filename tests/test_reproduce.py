"""The paper's rows from the list to the table, in small."""

import json
import re

import pytest
from small_rows import SET
from trainer_data import write_cityscapes

command = pytest.importorskip("segmentation.command")
engine = pytest.importorskip("segmentation.engine")
paper = pytest.importorskip("segmentation.extras.paper")
reproduce = pytest.importorskip("reproduce")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Cityscapes in small with lists as UniMatch and U2PL publish them."""
    folder = tmp_path_factory.mktemp("paper")
    data = write_cityscapes(folder / "cityscapes")
    images = [path.relative_to(data).as_posix() for path in sorted(data.glob("leftImg8bit/train/*/*.png"))]
    for name, count in (("1_8", 3), ("186", 2)):
        (folder / "splits" / name).mkdir(parents=True)
        (folder / "splits" / name / "labeled.txt").write_text("\n".join(images[:count]))
        (folder / "splits" / name / "unlabeled.txt").write_text("\n".join(images[count:]))
    return folder


def given(folder, *arguments):
    paths = ["--out", str(folder / "runs"), "--cityscapes", str(folder / "cityscapes")]
    return reproduce.parse([*arguments, *paths, "--splits", str(folder / "splits"), "--set", *SET])


@pytest.mark.slow
def test_rows_are_run_resumed_and_collected(folder, monkeypatch, capsys):
    options = given(folder, "--run", "no_omega", "neighbors_15")
    rows = paper.rows()
    saved = engine.save

    def stop(state, run):
        saved(state, run)
        if run.progress.phase == "mllc":
            raise KeyboardInterrupt

    monkeypatch.setattr(engine, "save", stop)
    with pytest.raises(SystemExit) as stopped:
        reproduce.run_row(rows["no_omega"], options)
    assert stopped.value.code == 130
    monkeypatch.setattr(engine, "save", saved)
    out = folder / "runs" / "no_omega"
    assert reproduce.status(out)["state"] == "mllc, step 4"
    reproduce.run_row(rows["no_omega"], options)
    now = reproduce.status(out)
    assert now["state"] == "finished"
    config = json.loads((out / "results.json").read_text())["config"]
    assert config["loss"]["self_weighted"] is False
    assert config["data"]["labeled"].endswith("1_8/labeled.txt")
    assert len((out / "labeled.txt").read_text().splitlines()) == 3
    reproduce.run_row(rows["no_omega"], options)
    assert "is finished" in capsys.readouterr().out

    reproduce.run_row(rows["neighbors_15"], options)
    reproduce.collect(options)
    table = (folder / "runs" / "table.md").read_text()
    ours = now["found"]["mllc"]
    assert f"| no_omega | mllc | 65.41 | {ours:.2f} | {ours - 65.41:+.2f} | 2 | " in table
    assert re.search(r"\| neighbors_15 \| mllc \| 65\.79 \| \d", table)
    assert (folder / "runs" / "sensitivity.png").stat().st_size > 1000
    reproduce.show(options)
    shown = capsys.readouterr().out
    assert f"mllc {ours:.2f}" in re.sub(r"\s+", " ", shown)
    assert all(name in shown for name in rows)


def test_a_row_finds_its_list_under_either_name(folder):
    rows, splits = paper.rows(), folder / "splits"
    assert paper.find_list(rows["cityscapes_v2_1_8"], splits).parent.name == "1_8"
    assert paper.find_list(rows["cityscapes_v3plus_1_16"], splits).parent.name == "186"
    with pytest.raises(ValueError, match="to hold 1_4/labeled.txt or 744/labeled.txt"):
        paper.find_list(rows["cityscapes_v2_1_4"], splits)
    with pytest.raises(ValueError, match="none is published for this row"):
        paper.find_list(rows["voc_v2_1_50"], splits)


def test_a_row_that_does_not_exist_is_named(capsys):
    with pytest.raises(SystemExit):
        reproduce.parse(["--run", "cityscapes_v9"])
    assert "unknown row(s) cityscapes_v9" in capsys.readouterr().err


def test_a_dry_run_tells_the_cost_without_the_data(capsys):
    reproduce.run_row(paper.rows()["segformer_1_8"], reproduce.parse(["--dry-run"]))
    printed = capsys.readouterr().out
    assert "372 labeled, 2603 unlabeled" in printed
    assert "network: 27.56 M parameters" in printed
    assert "steps: 2000 of warm-up, 32600 of each of 2 method(s)" in printed


def test_nothing_to_collect_is_said(tmp_path):
    with pytest.raises(ValueError, match="found none that has finished"):
        reproduce.collect(reproduce.parse(["--collect", "--out", str(tmp_path)]))
