"""Files broken in every way that people report, and what a script says of them: for the battery over all scripts."""

import contextlib
import os

import pytest


def cut(path):
    path.write_bytes(path.read_bytes()[: max(1, path.stat().st_size // 2)])


def flipped(path):
    """Bits in three places, as one may hit what nobody reads: what is read may be whole, another value, or no file."""
    content = bytearray(path.read_bytes())
    for part in (0.35, 0.5, 0.65):
        content[int(part * len(content))] ^= 16
    path.write_bytes(content)


def replaced(by):
    def spoil(path):
        path.unlink()
        by(path)

    return spoil


def unreadable(path):
    path.chmod(0)
    if os.access(path, os.R_OK):
        path.chmod(0o644)
        pytest.skip("this user may read everything")


def linked(path):
    """A link to the same content elsewhere: as good as the file."""
    path.rename(path.with_name(f"{path.name}.kept"))
    elsewhere = path.parent.parent / f"elsewhere-{path.name}"
    path.with_name(f"{path.name}.kept").rename(elsewhere)
    path.symlink_to(elsewhere)


FORMS = {
    "empty": lambda path: path.write_bytes(b""),
    "folder": replaced(lambda path: path.mkdir()),
    "text": lambda path: path.write_text("what is this doing here?\n"),
    "zeros": lambda path: path.write_bytes(bytes(300)),
    "web page": lambda path: path.write_text("<!DOCTYPE html><html>no such file</html>"),
    "cut": cut,
    "flipped": flipped,
    "link": linked,
    "broken link": replaced(lambda path: path.symlink_to("nowhere")),
    "link to itself": replaced(lambda path: path.symlink_to(path.name)),
    "unreadable": unreadable,
}


@contextlib.contextmanager
def spoiled(path, form):
    """The file in that form, and as it was afterwards."""
    content, times = path.read_bytes(), path.stat()
    try:
        FORMS[form](path)
        yield
    finally:
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.is_dir():
            path.rmdir()
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        (path.parent.parent / f"elsewhere-{path.name}").unlink(missing_ok=True)


def answer(run, arguments, capsys):
    """Exit status and all that was said; an error that comes through is a trace on a user's screen."""
    capsys.readouterr()
    code, said = 0, ""
    try:
        run([str(argument) for argument in arguments])
    except SystemExit as error:
        code, said = (error.code, "") if isinstance(error.code, int) else (1, str(error))
    printed = capsys.readouterr()
    return code or 0, f"{said}\n{printed.out}\n{printed.err}"


def check(form, path, code, text, is_complete):
    """What every script owes its user: a result with the file in it, or a refusal with the file's name.

    Args:
        form: of `FORMS`.
        path: the broken file.
        code, text: of `answer`.
        is_complete: whether there is a result that the file is part of; None: nothing in it would show.
    """
    assert "Traceback" not in text
    if code == 0:
        assert form in ("link", "flipped", "cut", "text", "zeros"), (form, text[-600:])
        assert is_complete is None or is_complete, f"{path.name} is left out without a word: {text[-600:]}"
    else:
        assert form != "link", text[-600:]
        assert path.name in text, text[-600:]
