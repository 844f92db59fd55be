"""What would end a run badly is said before its first step or its next checkpoint; what is done is not lost."""

import errno
import io
import json
import os
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from trainer_data import small, write_voc

from graphcorrect.cli import console
from graphcorrect.files import saving

checking = pytest.importorskip("segmentation.checking")
checkpoint = pytest.importorskip("segmentation.checkpoint")
command = pytest.importorskip("segmentation.command")
engine = pytest.importorskip("segmentation.engine")
layouts = pytest.importorskip("segmentation.layouts")
needs = pytest.importorskip("segmentation.needs")
recipes = pytest.importorskip("segmentation.recipe")


def refused(recipe, tmp_path):
    data = layouts.open_data(recipe.data, 0, tmp_path / "out")
    with pytest.raises(ValueError, match="the methods would not get what they need") as caught:
        needs.check_needs(recipe, data, checking.check(data))
    return str(caught.value)


def test_images_with_fewer_nodes_than_neighbors_are_judged_like_others(tmp_path):
    folder = write_voc(tmp_path / "voc")
    (folder / "labeled.txt").write_text("2007_000000\n2007_000001")
    for name in ("2007_000003", "2007_000005"):
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(folder / f"JPEGImages/{name}.jpg")
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(folder / f"SegmentationClass/{name}.png")
    asked = {"data__labeled": str(folder / "labeled.txt"), "evaluation__judged": 9, "refiner__neighbors": 20}
    engine.run(small(folder, methods=("mllc",), **asked), tmp_path / "out")
    judged = json.loads((tmp_path / "out/results.json").read_text())["methods"]["mllc"]["pseudo_labels"]
    assert 0 <= judged["corrected"]["miou"] <= 1


def sparse(points):
    def change(path):
        ids = np.full((40, 48), 255, np.uint8)
        ids[points] = np.arange(ids[points].size).reshape(ids[points].shape) // 8 % 3
        Image.fromarray(ids).save(path)

    return change


@pytest.mark.parametrize(
    "points", [np.s_[::9, ::9], np.s_[::4, ::2], np.s_[10:12, 10:13]], ids=["points", "lines", "a spot"]
)
def test_labels_too_sparse_for_anchors_are_said_before_the_first_step(tmp_path, points):
    folder = write_voc(tmp_path / "voc")
    for path in (folder / "SegmentationClass").iterdir():
        sparse(points)(path)
    (folder / "classes.txt").write_text("a\nb\nc")
    if points == np.s_[10:12, 10:13]:
        ids = np.full((40, 48), 255, np.uint8)
        ids[10:12, 10:13], ids[30, 30] = 1, 2
        for path in (folder / "SegmentationClass").iterdir():
            Image.fromarray(ids).save(path)
    said = refused(small(folder, methods=("mllc+anchors",)), tmp_path)
    assert "the labels are too sparse for anchors" in said
    assert "SegmentationClass/2007_0" in said
    recipe = small(folder)
    data = layouts.open_data(recipe.data, 0, tmp_path / "out")
    needs.check_needs(recipe, data, checking.check(data))


@pytest.mark.parametrize("method", ["supervised", "mllc+anchors"])
@pytest.mark.parametrize("what", ["the loss", "a weight"])
def test_a_run_that_diverges_stops_in_words_and_spoils_no_checkpoint(tmp_path, monkeypatch, method, what):
    recipe = small(write_voc(tmp_path / "voc"), methods=(method,), schedule__steps=4)
    step = engine.optimize

    def spoiling(name, student, built, *more, **span):
        parts = step(name, student, built, *more, **span)
        if str(name) == method and built.step == 3:
            parts = parts | {"supervised": torch.tensor(float("nan"))} if what == "the loss" else parts
            if what == "a weight":
                next(built.model.parameters()).data[:] = torch.inf
        return parts

    monkeypatch.setattr(engine, "optimize", spoiling)
    with pytest.raises(
        ValueError, match=rf"{re.escape(method)} has diverged: .* at step 3; .*--learning-rate below 0.001"
    ):
        engine.run(recipe, tmp_path / "out")
    saved = checkpoint.load(tmp_path / "out/resume.pt")
    assert saved["state"]["step"] == 2
    assert all(value.isfinite().all() for value in saved["state"]["model"].values())


# --- saving and printing


@pytest.mark.parametrize("kind", ["open", "sync", "sync of files"])
def test_files_are_saved_where_folders_are_no_files(tmp_path, monkeypatch, kind):
    open_file, sync = os.open, os.fsync

    def opened(path, *given):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_file(path, *given)

    def synced(number):
        if kind == "sync of files" or os.path.isdir(f"/proc/self/fd/{number}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(number)

    monkeypatch.setattr(os, "open" if kind == "open" else "fsync", opened if kind == "open" else synced)
    checkpoint.save({"step": 3}, tmp_path / "a/resume.pt")
    saving.write_atomically(tmp_path / "a/results.json", b"{}")
    assert checkpoint.load(tmp_path / "a/resume.pt") == {"step": 3}
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["results.json", "resume.pt"]


def test_a_place_that_takes_no_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match=r"could not save .*file/run/resume.pt: .*; there was no such file before"):
        checkpoint.save({}, tmp_path / "file/run/resume.pt")
    monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OSError, match="Input/output error"):  # a disk that has not taken it
        checkpoint.save({}, tmp_path / "resume.pt")
    assert not (tmp_path / "resume.pt").exists()


@pytest.mark.parametrize("when", ["while pickling", "while writing", "behind an error"])
def test_ctrl_c_in_a_save_is_ctrl_c(tmp_path, monkeypatch, when):
    class Interrupting:
        def __reduce__(self):
            raise KeyboardInterrupt

    path = tmp_path / "resume.pt"
    checkpoint.save({"step": 3}, path)
    if when == "while pickling":
        content = {"weights": torch.zeros(1000), "rest": Interrupting()}
    else:
        content = {"weights": torch.zeros(1000)}

        def save(content, file):
            file.write(b"half of it")
            try:
                raise KeyboardInterrupt
            finally:
                if when == "behind an error":
                    raise RuntimeError("unexpected pos 64 vs 0")

        monkeypatch.setattr(torch, "save", save)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(content, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["resume.pt"]
    assert checkpoint.load(path) == {"step": 3}


class Closed(io.StringIO):
    encoding = "ascii"

    def write(self, text=""):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    flush = write


@pytest.mark.parametrize("kind", ["closed", "full", "ascii", "none"])
def test_scores_are_not_lost_because_they_cannot_be_printed(monkeypatch, kind):
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    stream = (
        {"closed": Closed(), "ascii": ascii_only, "none": None}.get(kind) if kind != "full" else open("/dev/full", "w")
    )
    monkeypatch.setattr(sys, "stdout", stream)
    with console.steady_output():
        print("Straße ✓ 地面", flush=True)
        if stream is not None:
            sys.stdout.write("done\n")
    assert sys.stdout is stream
    if kind == "ascii":
        assert ascii_only.buffer.getvalue() == b"Stra\\xdfe \\u2713 \\u5730\\u9762\ndone\n"
    if kind == "full":
        stream.close()


def test_the_table_at_the_end_of_a_run_survives_a_closed_pipe(tmp_path, monkeypatch):
    recipe = small(write_voc(tmp_path / "voc"), schedule__steps=1)
    monkeypatch.setattr(sys, "stdout", Closed())
    command.main(command.Command(recipe, tmp_path / "out", False, False))
    assert "supervised" in json.loads((tmp_path / "out/results.json").read_text())["methods"]
    assert not (tmp_path / "out/resume.pt").exists()
    assert isinstance(sys.stdout, Closed)


def test_two_runs_do_not_share_a_folder(tmp_path):
    with (
        checkpoint.alone_in(tmp_path),
        pytest.raises(ValueError, match="--out to be a folder that no other run writes to"),
        checkpoint.alone_in(tmp_path),
    ):
        pass
    with checkpoint.alone_in(tmp_path):  # the first is gone
        assert (tmp_path / ".lock").exists()
    assert not list(tmp_path.iterdir())
    (tmp_path / ".lock").touch()  # of a run that was killed
    with checkpoint.alone_in(tmp_path):
        pass


@pytest.mark.parametrize("error", [OSError("no locks available"), NotImplementedError("FileSystem does not appear to")])
def test_drives_without_locks_are_written_to(tmp_path, monkeypatch, error):
    import filelock

    def acquire(self, *args, **kwargs):
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with checkpoint.alone_in(tmp_path):
        (tmp_path / "result").touch()
    assert (tmp_path / "result").exists()


@pytest.mark.parametrize("place", ["JPEGImages", "JPEGImages/run", "SegmentationClass/a/b", "./run/../JPEGImages/run"])
def test_results_do_not_go_among_the_images(tmp_path, place):
    folder = write_voc(tmp_path / "voc")
    with pytest.raises(ValueError, match="--out beside the images of `data.folder`"):
        command.expect_beside_data(folder / place, str(folder))
    for beside in (folder / "run", tmp_path / "run", folder / "ImageSets" / "run"):
        command.expect_beside_data(beside, str(folder))
    command.expect_beside_data(folder / place, None)
