"""A device that this machine lacks is refused in one line that names the option, by every script."""

import pytest
import torch
from trainer_data import tiny

devices = pytest.importorskip("graphcorrect.cli.devices")
processes = pytest.importorskip("segmentation.processes")
command = pytest.importorskip("segmentation.command")

LACKING = ["gpu", "meta", "cuda:99", "cpu:x", "", "cuda:-1", "opengl", "npu"]
LACKING += [name for name, there in (("cuda", torch.cuda), ("mps", torch.backends.mps)) if not there.is_available()]


def test_what_is_there_is_found():
    assert devices.find_device("cpu") == torch.device("cpu")
    assert devices.find_device("auto").type in ("cpu", "cuda")


def pretend(monkeypatch, count, rank):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *size, device: ones(*size))  # no GPU is asked
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)


@pytest.mark.parametrize("name", ["auto", "cuda"])
@pytest.mark.parametrize(("rank", "found"), [("0", "cuda:0"), ("3", "cuda:3"), (None, "cuda"), ("", "cuda")])
def test_each_process_of_torchrun_takes_a_gpu_of_its_own(monkeypatch, name, rank, found):
    pretend(monkeypatch, 4, rank)
    assert devices.find_device(name) == torch.device(found)
    assert devices.find_device("cuda:1") == torch.device("cuda:1")
    assert devices.find_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_more_processes_than_gpus_are_refused(monkeypatch, name):
    pretend(monkeypatch, 4, "4")
    with pytest.raises(ValueError, match=rf"expected --device with a GPU .* got '{name}' in process 5 .* that has 4;"):
        devices.find_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.find_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("name", LACKING)
def test_what_is_not_there_is_named_with_what_is(name):
    with pytest.raises(ValueError, match="expected --device to be one of auto, cpu") as caught:
        devices.find_device(name)
    assert f"got {name!r}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "mps:3"])
def test_a_training_on_a_device_that_is_not_there_is_refused_before_any_data(tmp_path, name):
    with pytest.raises(ValueError, match=r"`running\.device` \(--device\)"):
        processes.join(name)
    asked = command.Command(tiny(running__device=name), tmp_path / "out", resume=False, dry_run=False)
    with pytest.raises(SystemExit, match=r"error: expected `running\.device` \(--device\)"):
        command.main(asked)
    assert not (tmp_path / "out/labeled.txt").exists()
