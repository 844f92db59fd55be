"""Images in three colors with their masks, others that are labeled, and `graphcorrect refine` on them."""

from pathlib import Path

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("tqdm")

from graphcorrect_cli.main import main  # noqa: E402

HERE, SIZE = Path(__file__).parent, (48, 64)
NAMES = ["a", "b", "town/c", "d", "e"]


def scene(number):
    """Areas of the three classes, in red, green and blue."""
    generator = np.random.default_rng(number)
    labels = np.kron(generator.integers(0, 3, (3, 4)), np.ones((16, 16), np.uint8)).astype(np.uint8)
    image = np.full((*SIZE, 3), 60, np.uint8)
    np.put_along_axis(image, labels[..., None].astype(int), 200, 2)
    return image + generator.integers(0, 30, image.shape).astype(np.uint8), labels


def photos_in(tmp_path):
    """Images with their masks, and others that are labeled."""
    for kind, names, first in (("photos", NAMES, 0), ("labeled", ["x", "y"], 50)):
        for number, name in enumerate(names):
            image, labels = scene(first + number)
            for folder, content in (("images", image), ("masks", labels)):
                path = tmp_path / kind / folder / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(content).save(path)
    return tmp_path


def options(photos, *, model="small_models:colors", out="out", more=()):
    arguments = ["--model", model, "--images", photos / "photos/images", "--encoder", "small_models:Pooled"]
    arguments += ["--labeled-images", photos / "labeled/images", "--labeled-masks", photos / "labeled/masks"]
    arguments += ["--out", photos / out, "--device", "cpu", "--threads", "1", "--neighbors", "8", *more]
    return ["refine", *map(str, arguments)]


def answer(arguments, capsys):
    """Exit status, and all that was printed."""
    code = 0
    try:
        main(arguments)
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else 1
        print(stopped.code if not isinstance(stopped.code, int) else "")
    seen = capsys.readouterr()
    return code, seen.out + seen.err


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
