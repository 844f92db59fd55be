"""A kill during a save, cut and hostile files, a broken image, a dead worker, Ctrl-C: nothing saved is lost."""

import contextlib
import multiprocessing
import os
import random
import signal
import time

import pytest
import torch
from resumed_runs import go_on, start
from trainer_data import process, same, tiny, write_voc

checkpoint = pytest.importorskip("segmentation.checkpoint")
command = pytest.importorskip("segmentation.command")
engine = pytest.importorskip("segmentation.engine")
loading = pytest.importorskip("segmentation.loading")


def save_forever(path, first):
    number = first
    while True:
        checkpoint.save({"number": number, "weights": torch.full((300_000,), float(number))}, path)
        number += 1


def test_a_kill_during_a_save_leaves_a_whole_checkpoint(tmp_path):
    """Twelve kills while the next file is half written: each time the last one is there, and whole."""
    path, partial = tmp_path / "resume.pt", tmp_path / "resume.pt.partial"
    number = half_written = 0
    for attempt in range(12):
        saving = process(save_forever, path, number)
        while saving.is_alive() and not (path.exists() and checkpoint.load(path)["number"] > number):
            time.sleep(0.005)
        while not partial.exists() and saving.is_alive():
            pass
        time.sleep(random.Random(attempt).uniform(0, 0.002))
        os.kill(saving.pid, signal.SIGKILL)
        saving.join()
        assert saving.exitcode == -signal.SIGKILL
        half_written += partial.exists()
        content = checkpoint.load(path)
        assert content["number"] > number
        assert torch.equal(content["weights"], torch.full((300_000,), float(content["number"])))
        number = content["number"]
    assert half_written > 0
    checkpoint.save({"number": -1}, path)  # what is left of the last attempt is in nobody's way
    assert [entry.name for entry in tmp_path.iterdir()] == ["resume.pt"]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_cut_checkpoint_is_refused(tmp_path, share):
    path = tmp_path / "resume.pt"
    checkpoint.save({"weights": torch.randn(1000), "step": 3}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match="expected a checkpoint of this trainer"):
        checkpoint.load(path)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("call", [os.system, eval, exec, open])
def test_a_hostile_checkpoint_runs_nothing(tmp_path, call, legacy):
    marker = tmp_path / "ran"
    argument = str(marker) if call is open else f"touch {marker}"
    arguments = (argument, "w") if call is open else (argument,)

    class Payload:
        def __reduce__(self):
            return call, arguments

    torch.save({"step": 3, "state": Payload()}, tmp_path / "sly.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match="expected a checkpoint of this trainer"):
        checkpoint.load(tmp_path / "sly.pt")
    assert not marker.exists()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A small run with a loading process, and what it ends with."""
    folder = tmp_path_factory.mktemp("run")
    recipe = tiny(
        methods=("fixmatch",), data__folder=str(write_voc(folder / "voc")), data__layout="voc", data__labeled="4",
        schedule__warmup=3, schedule__steps=4, running__checkpoint_every=1, running__workers=1,
    )  # fmt: skip
    start(recipe, folder / "whole")
    engine.run(recipe, folder / "whole")
    return folder, recipe


@contextlib.contextmanager
def after_step(number, what):
    """Does `what` when the state of a step of fixmatch has been saved."""
    save = engine.save

    def saving(state, run):
        save(state, run)
        if run.progress.phase == "fixmatch" and state.step == number:
            what()

    engine.save = saving
    try:
        yield
    finally:
        engine.save = save


def stop_and_go_on(folder, recipe, name, what, capsys):
    """The error of a run that `what` befalls, once it has gone on to the same end as one that nothing befell."""
    out = folder / name
    start(recipe, out)
    asked = command.Command(recipe, out, True, False)
    with after_step(4, what), pytest.raises((SystemExit, RuntimeError)) as caught:
        command.main(asked)
    said = f"{caught.value} {capsys.readouterr().err}"
    assert f"--resume --out {out} goes on" in said
    assert checkpoint.load(out / "resume.pt")["state"]["step"] >= 4
    return out, caught.value, said


def finish(folder, out):
    last = process(go_on, out)
    last.join()
    assert last.exitcode == 0
    assert same(checkpoint.load(folder / "whole/fixmatch/last.pt"), checkpoint.load(out / "fixmatch/last.pt"))


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.6])
def test_an_image_that_breaks_in_the_middle_of_an_epoch_is_named(uninterrupted, capsys, share):
    folder, recipe = uninterrupted
    masks = sorted((folder / "voc/SegmentationClass").glob("*.png"))
    before = {mask: mask.read_bytes() for mask in masks}

    def spoil():
        for mask, content in before.items():
            mask.write_bytes(content[: int(share * len(content))])

    try:
        out, _, said = stop_and_go_on(folder, recipe, f"broken {share}", spoil, capsys)
    finally:
        for mask, content in before.items():
            mask.write_bytes(content)
    assert "could not read" in said
    assert any(str(mask) in said for mask in masks)
    finish(folder, out)


def lose_the_loading_process(recipe, out, log):
    """A run whose loading process is killed; what it says goes to `log`. In a process of its own: torch reports a dead
    worker by a signal handler, wherever the main process happens to be.
    """
    torch.set_num_threads(1)
    with open(log, "w") as file:
        os.dup2(file.fileno(), 2)
    with after_step(4, lambda: [os.kill(child.pid, signal.SIGKILL) for child in multiprocessing.active_children()]):
        command.main(command.Command(recipe, out, True, False))


@pytest.mark.slow
def test_a_loading_process_that_is_killed_stops_the_run_with_a_word(uninterrupted):
    folder, recipe = uninterrupted
    out, log = folder / "killed worker", folder / "killed.log"
    start(recipe, out)
    running = process(lose_the_loading_process, recipe, out, log)
    running.join()
    assert running.exitcode == 1
    said = log.read_text()
    assert any(word in said for word in ("DataLoader worker", "EOFError", "ConnectionResetError"))  # who notices first
    assert f"the run has failed\n--resume --out {out} goes on" in said
    finish(folder, out)


@pytest.mark.slow
def test_ctrl_c_stops_a_run_that_can_go_on(uninterrupted, capsys):
    folder, recipe = uninterrupted

    def press():
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        out, error, said = stop_and_go_on(folder, recipe, "interrupted", press, capsys)
    finally:
        signal.signal(signal.SIGINT, before)
    assert error.code == 130
    assert "interrupted" in said
    finish(folder, out)
