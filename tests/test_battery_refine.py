"""refine_masks: each of its files broken in each way. A result with the file in it, or its name; never a trace."""

import csv
import io
import shutil

import pytest
from broken_files import FORMS, answer, check, spoiled
from saved_predictions import command, refine_masks

INPUTS = ("probabilities/b.npy", "masks/b.png", "images/b.png", "features/b.npz", "truth/b.png", "names.txt")
RESULTS = ("settings.json", "records/b.json", "masks/b.png")


def arguments(folders, name):
    names = ["--classes", folders / "names.txt"]
    if name.startswith("masks"):
        return command(folders, predicted="masks", more=map(str, names))
    keys = "images" if name.startswith("images") else "features"
    return command(folders, keys=keys, more=map(str, ["--labeled-masks", folders / "truth", *names]))


def is_complete(folders, out="out"):
    """Whether every prediction has its mask and its line."""
    table = folders / out / "changes.csv"
    lines = csv.DictReader(io.StringIO(table.read_text())) if table.is_file() else []
    return (
        all((folders / out / f"masks/{line['image']}.png").is_file() for line in lines)
        and len(list((folders / out / "masks").rglob("*.png"))) == 3
    )


@pytest.mark.parametrize("form", FORMS)
def test_a_broken_input_is_named_or_used(folders, form, capsys):
    (folders / "names.txt").write_text("wall\nfloor\ndoor\n")
    for name in INPUTS:
        with spoiled(folders / name, form):
            code, text = answer(refine_masks.run, arguments(folders, name), capsys)
            check(form, folders / name, code, text, is_complete(folders))
        shutil.rmtree(folders / "out", ignore_errors=True)


@pytest.mark.parametrize("form", FORMS)
def test_a_broken_result_is_named_or_made_again(folders, form, capsys):
    again = command(folders)
    refine_masks.run(again)
    whole = {name: (folders / "out" / name).read_bytes() for name in RESULTS}
    for name in RESULTS:
        with spoiled(folders / "out" / name, form):
            code, text = answer(refine_masks.run, again, capsys)
            assert "Traceback" not in text
            if code == 0:
                assert is_complete(folders)
                assert (folders / "out" / name).read_bytes() == whole[name]
            else:
                assert (folders / "out" / name).name in text
