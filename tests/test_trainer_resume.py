"""A run that is killed and goes on ends as if nothing had been; a full disk costs a step and nothing that was saved."""

import json
import os
import random
import signal
import time

import pytest
import torch
from resumed_runs import go_on, start
from trainer_data import process, same, tiny, write_voc

checkpoint = pytest.importorskip("segmentation.checkpoint")
engine = pytest.importorskip("segmentation.engine")
recipes = pytest.importorskip("segmentation.recipe")
report = pytest.importorskip("segmentation.report")
running = pytest.importorskip("segmentation.running")

METHODS = ("fixmatch", "unimatch+anchors+graphs", "mllc+anchors", "rounds+graphs")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A comparison of methods, run in one go; dropout, anchors, prototypes and counted thresholds included."""
    folder = tmp_path_factory.mktemp("run")
    recipe = tiny(
        methods=METHODS, data__folder=str(write_voc(folder / "voc")), data__layout="voc", data__labeled="4",
        schedule__warmup=6, schedule__steps=6, evaluation__times=2, running__checkpoint_every=2,
        refiner__preset="released", optimizer__name="sgd",
    )  # fmt: skip
    start(recipe, folder / "whole")
    engine.run(recipe, folder / "whole")
    return folder, recipe


@pytest.mark.slow
def test_a_killed_run_ends_bit_for_bit_as_one_that_was_not(uninterrupted):
    folder, recipe = uninterrupted
    out = folder / "killed"
    start(recipe, out)
    lines = len((folder / "whole" / "log.jsonl").read_text().splitlines())
    stops = sorted(random.Random(os.urandom(8)).sample(range(1, lines - 1), 2))  # once early, once late, anywhere
    print("killed after", stops, "of", lines, "lines of the log")
    for stop in stops:
        running = process(go_on, out)
        while running.is_alive() and count_lines(out / "log.jsonl") < stop:
            time.sleep(0.002)
        os.kill(running.pid, signal.SIGKILL)
        running.join()
        assert running.exitcode == -signal.SIGKILL, "was over before it could be killed"
    last = process(go_on, out)
    last.join()
    assert last.exitcode == 0
    for name in ("warmup.pt", *(f"{method}/{kind}.pt" for method in METHODS for kind in ("last", "best"))):
        one, other = (checkpoint.load(folder / run / name) for run in ("whole", "killed"))
        assert same(one, other), name
    logs = [report.read_log(folder / run / "log.jsonl") for run in ("whole", "killed")]
    assert logs[0] == logs[1]
    results = [json.loads((folder / run / "results.json").read_text())["methods"] for run in ("whole", "killed")]
    for method in METHODS:
        for result in results:
            result[method].pop("seconds")
    assert results[0] == results[1]
    counts = checkpoint.load(out / "mllc+anchors" / "last.pt")["model"]["refiner.threshold.counts"]
    assert counts.sum() >= 0
    assert not (out / "resume.pt").exists()


def count_lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_resuming_restores_every_part(uninterrupted, monkeypatch):
    """Stopped in the middle of mllc; the state that is saved is not the one a fresh build would have."""
    folder, recipe = uninterrupted
    out = folder / "stopped"
    start(recipe, out)
    saved = engine.save

    def stop_at(state, run):
        saved(state, run)
        if run.progress.phase == "mllc+anchors" and state.step == 8:
            raise KeyboardInterrupt

    monkeypatch.setattr(engine, "save", stop_at)
    with pytest.raises(KeyboardInterrupt):
        engine.run(recipe, out)
    content = checkpoint.load(out / "resume.pt")
    assert content["progress"]["phase"] == "mllc+anchors"
    assert [*content["progress"]["results"]] == ["fixmatch", "unimatch+anchors+graphs"]
    assert content["state"]["step"] == 8
    assert len(content["state"]["optimizer"]["state"]) > 20
    assert content["state"]["banks"]["prototypes.is_initialized"].any()
    assert (content["state"]["banks"]["anchors.priority"] > -torch.inf).any()
    monkeypatch.setattr(engine, "save", saved)
    engine.run(recipe, out, resume=True)
    assert same(checkpoint.load(folder / "whole/mllc+anchors/last.pt"), checkpoint.load(out / "mllc+anchors/last.pt"))


def test_random_numbers_go_on_where_they_were(tmp_path):
    import numpy as np

    checkpoint.seed_all(7)
    checkpoint.save(checkpoint.random_state(), tmp_path / "random.pt")

    def draw():
        return random.random(), np.random.rand(), torch.rand(3).tolist()  # noqa: NPY002

    first = draw()
    assert draw() != first
    checkpoint.set_random_state(checkpoint.load(tmp_path / "random.pt"))
    assert draw() == first


def test_a_full_disk_is_named_and_costs_nothing_that_was_saved(tmp_path):
    path = tmp_path / "resume.pt"
    checkpoint.save({"weights": torch.arange(5)}, path)
    (tmp_path / "resume.pt.partial").symlink_to("/dev/full")  # a file that takes no byte: no space left on device
    with pytest.raises(OSError, match=r"could not save .*resume\.pt: .*; what it held before is still there"):
        checkpoint.save({"weights": torch.zeros(300_000)}, path)
    assert torch.equal(checkpoint.load(path)["weights"], torch.arange(5))
    assert [entry.name for entry in tmp_path.iterdir()] == ["resume.pt"]  # and no part is left behind


@pytest.mark.slow
def test_a_full_disk_stops_a_run_that_can_go_on_afterwards(uninterrupted, monkeypatch):
    folder, recipe = uninterrupted
    out = folder / "full"
    start(recipe, out)
    saved, calls = checkpoint.save, []

    def full_at_the_fourth(content, path):
        calls.append(path.name)
        if len(calls) == 4:
            path.with_name(path.name + ".partial").symlink_to("/dev/full")
        saved(content, path)

    monkeypatch.setattr(checkpoint, "save", full_at_the_fourth)
    with pytest.raises(OSError, match="No space left on device|could not save"):
        engine.run(recipe, out)
    monkeypatch.setattr(checkpoint, "save", saved)
    assert checkpoint.load(out / "resume.pt")["state"]["step"] > 0
    engine.run(recipe, out, resume=True)
    assert same(checkpoint.load(folder / "whole/mllc+anchors/last.pt"), checkpoint.load(out / "mllc+anchors/last.pt"))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Sly:
        def __reduce__(self):
            return print, ("run",)

    torch.save({"model": Sly()}, tmp_path / "sly.pt")
    with pytest.raises(ValueError, match="expected a checkpoint of this trainer"):
        checkpoint.load(tmp_path / "sly.pt")
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(ValueError, match="expected a checkpoint of this trainer"):
        checkpoint.load(tmp_path / "cut.pt")
    with pytest.raises(ValueError, match="is missing"):
        checkpoint.load(tmp_path / "none.pt")


def test_a_log_is_cut_to_what_the_checkpoint_knows(tmp_path):
    log = report.Log(tmp_path / "log.jsonl")
    log.write(method="mllc", step=1, loss=float("nan"))
    kept = log.written()
    log.write(method="mllc", step=2, loss=0.5)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"method": "ml')  # killed in the middle of a line
    assert len(report.read_log(tmp_path / "log.jsonl")) == 2
    log = report.Log(tmp_path / "log.jsonl", keep=kept)
    log.write(method="mllc", step=2, loss=0.25)
    assert [entry["loss"] for entry in report.read_log(tmp_path / "log.jsonl")] == [None, 0.25]
    log = report.Log(tmp_path / "lost.jsonl", keep=kept)  # deleted, or not copied along
    log.write(method="mllc", step=2, loss=0.25)
    assert [entry["loss"] for entry in report.read_log(tmp_path / "lost.jsonl")] == [0.25]


class Taken:
    """A state that takes any warm-up."""

    def __init__(self):
        self.model, self.warmup = torch.nn.Linear(1, 1), None

    def load_warmup(self, saved):
        self.warmup = saved


def start_from(before, now):
    """Whether a run of the recipe `now` has begun with the warm-up of a run of the recipe `before`."""
    begun = Taken()
    saved = {"step": 2, "model": begun.model.state_dict(), "optimizer": {}, "recipe": recipes.as_dict(before)}
    running.load_warmup(begun, saved, now, ["a", "b"], "--start")
    return begun.warmup is saved


@pytest.mark.parametrize(
    ("before", "now", "differs"),
    [
        ({}, {}, None),
        ({"data__labeled": "8"}, {}, "`data.labeled` 8; here: 4"),
        ({"data__held_out": 2}, {}, "`data.held_out` 2; here: 0"),
        ({"data__resize": (32, 48)}, {}, "`data.resize` [32, 48]; here: None"),
        ({"running__seed": 1}, {}, "`running.seed` 1; here: 0"),
        ({"running__seed": 1, "data__labeled": "mine.txt"}, {"data__labeled": "mine.txt"}, None),
    ],
)
def test_a_warm_up_that_may_know_other_labels_is_taken_with_a_note(capsys, before, now, differs):
    usual = {"data__labeled": "4"}
    assert start_from(tiny(**usual | before), tiny(**usual | now))
    said = capsys.readouterr().err
    assert (f"one of {differs}\n" in said) if differs else not said
    assert said.count("\n") == bool(differs)


def test_a_warm_up_of_another_loss_is_refused():
    with pytest.raises(ValueError, match=r"got one of `loss\.dice` 1\.0; here: 0\.0"):
        start_from(tiny(loss__dice=1.0), tiny())
