"""What goes wrong, in words: files by their name in one line, and a program that never ends in a trace."""

import os

import numpy as np
import pytest
import yaml
from PIL import Image

from graphcorrect.cli import console
from graphcorrect.files import faults


class Odd(Exception):
    """As other libraries have them: of no type that anybody lists."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Odd("several\n lines"), "several lines"),
        (Odd(""), "Odd"),
        (KeyError("model"), "has no 'model'"),
        (MemoryError(), "too large for the memory"),
        (OSError(28, "No space left on device"), "no space left on device"),
        (yaml.YAMLError("mapping values"), "mapping values"),
        (Image.DecompressionBombError("exceeds limit"), "exceeds limit"),
        (Odd("long " * 200), "..."),
    ],
)
def test_whatever_is_raised_names_the_file_in_one_line(tmp_path, error, said):
    file = tmp_path / "f.bin"
    file.write_bytes(b"\x01\x02")
    with pytest.raises(faults.FileFault) as caught, faults.reading(file, "something else"):
        raise error
    assert str(caught.value).startswith(f"{file}: expected something else; ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("content", [b"", b"<html>", b"version https://git-lfs.github.com/spec/v1"])
def test_a_file_that_cannot_be_it_is_named_before_it_is_opened(tmp_path, content):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(faults.FileFault, match="f: expected text; is "), faults.reading(tmp_path / "f", "text"):
        pytest.fail("it was opened")


def test_a_file_within_a_file_is_named_alone(tmp_path):
    with pytest.raises(faults.FileFault, match="^inner: "), faults.reading("outer"), faults.reading("inner"):
        raise Odd("x")


def test_ctrl_c_while_reading_is_no_fault_of_the_file():
    with pytest.raises(KeyboardInterrupt), faults.reading("file"):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("été\n".encode(), "été"),
        ("\ufeffété".encode(), "été"),
        ("été".encode("utf-16"), "été"),
        (b"caf\xe9", "café"),
        (bytes(40), None),
        (b"", None),
        (b"<html>", None),
    ],
)
def test_text_is_read_with_or_without_its_mark_or_refused_by_name(tmp_path, content, text):
    (tmp_path / "names.txt").write_bytes(content)
    if text is not None:
        assert faults.read_lines(tmp_path / "names.txt") == [text]
        return
    with pytest.raises(faults.FileFault, match=r"names\.txt: expected text"):
        faults.read_lines(tmp_path / "names.txt")


def test_a_damaged_archive_is_found(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(300.0))
    faults.check_archive(tmp_path / "a.npz")
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[1000] ^= 4
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(faults.FileFault, match=r"a\.npz: "):
        faults.check_archive(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("expected `x`"), 1, "error: expected `x`"),
        (OSError(28, "No space left on device"), 1, "No space left"),
        (KeyError("x"), 1, r"error: KeyError: has no 'x' \(test_faults.py, line \d+\)"),
        (Odd("odd"), 1, r"error: Odd: odd \(test_faults.py, line \d+\); GRAPHCORRECT_TRACE=1"),
        (ConnectionResetError("peer"), 1, "error: ConnectionResetError"),
        (RuntimeError("CUDA out of memory. Tried"), 1, "out of memory .*smaller size"),
        (RecursionError("too deep"), 1, "RecursionError"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_a_program_ends_in_words(error, code, said, capsys):
    with pytest.raises(SystemExit, match=said) as caught, console.in_words():
        raise error
    assert caught.value.code == code or isinstance(caught.value.code, str)
    assert "Traceback" not in capsys.readouterr().err


def test_the_trace_is_there_for_whoever_asks(monkeypatch):
    monkeypatch.setenv(console.TRACE, "1")
    with pytest.raises(Odd), console.in_words():
        raise Odd


def test_a_reader_that_leaves_and_a_letter_that_is_lacking_stop_no_print(capsys):
    with console.in_words():
        print("été \udce9")
    assert "été \\udce9" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["file", "file/below", "\0", "x" * 400])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="expected --out to be a folder that can be written"):
        faults.check_writable(tmp_path / name)
    faults.check_writable(tmp_path / "new/one")
    assert os.listdir(tmp_path / "new/one") == []
