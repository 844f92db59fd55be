"""`graphcorrect refine` by several processes, by shards, and by one that is killed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("tqdm")

from refine_photos import HERE, answer, files_of, options, scene  # noqa: E402

from graphcorrect.files import results  # noqa: E402


def test_shares_make_what_one_process_makes(photos, capsys):
    truth = ["--truth", photos / "photos/masks"]
    assert answer(options(photos, out="whole", more=truth), capsys)[0] == 0
    for share in ("2/3", "1/3"):
        code, text = answer(options(photos, more=[*truth, "--shard", share]), capsys)
        assert code == 0, text
    assert "4 of 5 images are corrected" in text
    assert not (photos / "out/report.html").exists()
    assert answer(options(photos, more=truth), capsys)[0] == 0
    assert files_of(photos / "whole") == files_of(photos / "out")


def test_a_share_without_any_truth_is_done(photos, capsys):
    for name in ("b", "town/c", "d", "e"):
        (photos / f"photos/masks/{name}.png").unlink()
    more = ["--truth", photos / "photos/masks", "--shard", "2/5"]
    code, text = answer(options(photos, more=more), capsys)
    assert code == 0, text
    assert (photos / "out/masks/b.png").exists()


def start(arguments, cwd=HERE, before=()):
    paths = [str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, *before, "-m", "graphcorrect", *arguments]
    return subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.mark.slow
def test_two_processes_of_torchrun_make_what_one_makes_and_one_report(photos, capsys):
    assert answer(options(photos, out="whole"), capsys)[0] == 0
    together = start(options(photos), before=LAUNCHER)
    said = together.communicate(timeout=600)[0].decode()
    assert together.returncode == 0, said
    assert said.count("open ") == 1
    assert files_of(photos / "whole") == files_of(photos / "out")


@pytest.mark.slow
def test_a_fault_stops_both_processes(photos):
    (photos / "photos/images/a.png").write_bytes(b"")
    together = start(options(photos), before=LAUNCHER)
    said = together.communicate(timeout=600)[0].decode()
    assert together.returncode
    assert said.count("images/a.png: is empty") == 1
    assert not (photos / "out/masks").exists()


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on(photos, capsys):
    for number in range(40):
        Image.fromarray(scene(number)[0]).save(photos / f"photos/images/more{number}.png")
    killed = start(options(photos))
    records = photos / "out/records"
    for _ in range(3000):
        if killed.poll() is not None or (records.is_dir() and len(list(records.rglob("*.json"))) > 3):
            break
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    done = {path: path.stat().st_mtime_ns for path in records.rglob("*.json")}
    assert 3 < len(done)
    code, text = answer(options(photos), capsys)
    assert code == 0, text
    assert all(path.stat().st_mtime_ns == when for path, when in done.items() if json.loads(path.read_text()))
    assert answer(options(photos, out="whole"), capsys)[0] == 0
    assert files_of(photos / "whole") == files_of(photos / "out")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("timm:no_such_encoder", "error: expected --encoder to be an encoder of timm, got 'timm:no_such_encoder'"),
        ("small_models:nowhere", "error: expected --encoder as a file or package.module:callable"),
        ("small_models:failing", "expected 4 channels"),
    ],
)
@pytest.mark.parametrize("shard", [(), ("--shard", "1/2")])
def test_a_command_that_was_refused_may_be_corrected(photos, capsys, wrong, message, shard):
    """With an encoder that is none, or fails on the first image: nothing is there that other settings could disturb."""
    pytest.importorskip("timm")
    arguments = options(photos, more=shard)
    place = arguments.index("--encoder") + 1
    code, text = answer([*arguments[:place], wrong, *arguments[place + 1 :]], capsys)
    assert code == 1
    assert any(line.startswith("error: ") and message in line for line in text.replace("\r", "\n").splitlines()), text
    assert not list((photos / "out").iterdir())
    code, text = answer(arguments, capsys)
    assert code == 0, text
    code, text = answer([*arguments, "--rounds", "1"], capsys)
    assert code == 1
    assert "settings.json says rounds 2" in text


def test_results_do_not_go_where_the_inputs_lie(photos, capsys):
    """Unless they are there already."""
    code, text = answer(options(photos, out="photos"), capsys)
    assert code == 1
    assert f"--out to be a folder of its own, got {photos / 'photos'}, which holds --images\n" in text
    assert not (photos / "photos/settings.json").exists()
    code, text = answer(options(photos, out="."), capsys)
    assert code == 1
    assert "which holds --labeled-masks, --images, --labeled-images\n" in text
    results.begin(photos, {})
    given = {"--images": photos / "photos/images"}
    results.check_apart(photos, ("before",), searched=given, alone=True)


def test_settings_that_began_while_images_were_read_are_not_mixed_with_others(photos, capsys, monkeypatch):
    from graphcorrect.cli import refine

    def overtaken(*given):
        results.begin(photos / "out", {"rounds": 5})
        return first(*given)

    first = refine.correction
    monkeypatch.setattr(refine, "correction", overtaken)
    code, text = answer(options(photos), capsys)
    assert code == 1
    assert "settings.json says " in text
    assert not (photos / "out/masks").exists()


def test_processes_share_every_item_once():
    from graphcorrect.cli.shares import share_of

    items = list(range(11))
    for count in (1, 2, 5, 20):
        shares = [share_of(items, (number, count)) for number in range(count)]
        assert sorted(sum(shares, [])) == items
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_shares_that_begin_at_one_moment_do_not_stop_each_other(tmp_path, monkeypatch):
    def overtaken(path, content):
        path.write_bytes(content)  # by another process, which took the partial file along
        raise OSError("no such file: settings.json.partial")

    monkeypatch.setattr(results, "write_atomically", overtaken)
    results.begin(tmp_path / "out", {"alpha": 0.2})
    assert json.loads((tmp_path / "out/settings.json").read_text()) == {"alpha": 0.2}

    def full(path, content):
        raise OSError("disk full")

    monkeypatch.setattr(results, "write_atomically", full)
    with pytest.raises(OSError, match="disk full"):
        results.begin(tmp_path / "other", {"alpha": 0.2})


def test_a_process_that_begins_while_folders_are_looked_for_is_no_stranger(tmp_path, monkeypatch):
    def overtaken(out):
        found = is_ours(out)
        results.begin(out, {"alpha": 0.2})
        (out / "masks").mkdir()
        return found

    is_ours = results.is_ours
    monkeypatch.setattr(results, "is_ours", overtaken)
    results.check_settings(tmp_path / "out", {"alpha": 0.2}, ("masks",))
