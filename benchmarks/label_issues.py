"""Wrong annotations: what `label_issues` and cleanlab find of labels that were made wrong on purpose.

    python benchmarks/label_issues.py --data CamVid    # quality on its 233 test frames; hours on a CPU
    python benchmarks/label_issues.py --study speed    # seconds and memory, made-up images
    python benchmarks/label_issues.py --smoke          # both at their smallest

Regions of a similar class, contours that run beside, objects left out, and noise; 5 to 40 % of the pixels. Predictions
are out of sample: half of the images each, a network learns from the wrong labels of one half and judges the other.
Both tools get the same ones. Needs `pip install cleanlab`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch
from _records import RESULTS, Smoke, save_record

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))  # the trainer's networks

import _label_issues_speed
import _label_issues_study
from _label_issues_networks import BATCH, RATE, STEPS, WIDTH
from _label_noise import KINDS, VOID


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder in CamVid's layout; without it made-up scenes")
    parser.add_argument("--split", default="test", help="whose frames are judged")
    parser.add_argument("--study", choices=["quality", "speed"], nargs="+", default=["quality", "speed"])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--rates", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.4])
    parser.add_argument("--every", type=int, default=1, help="judge every so many frames")
    parser.add_argument("--jobs", type=int, default=1, help="processes of the quality study")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each network")
    parser.add_argument("--runs", type=Path, default=Path("runs/label_issues"), help="where predictions are kept")
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 1000], help="images of the speed study")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON")
    parser.add_argument("--smoke", action=Smoke)
    args = parser.parse_args()
    if args.smoke:
        args.runs, args.rates, args.steps, args.counts = args.out / "runs", [0.1], 2, [2]
    if importlib.util.find_spec("cleanlab") is None:
        if not args.smoke:
            raise SystemExit("cleanlab is not installed: pip install cleanlab")
        print("cleanlab is not installed: it is left out")
    torch.set_num_threads(1)  # as cleanlab's n_jobs=1
    settings = {"steps": args.steps, "batch": BATCH, "rate": RATE, "width": WIDTH, "every": args.every}
    version = importlib.metadata.version("cleanlab") if importlib.util.find_spec("cleanlab") else None
    for study in args.study:
        if study == "quality":
            scenes = camvid(args.data, args.split) if args.data else made_up()
            content = {"classes": scenes.class_names, "results": _label_issues_study.results(scenes, args)}
        else:
            content = {"results": _label_issues_speed.results(args.counts)}
        where = {"device": torch.device("cpu"), "folder": args.out, "cleanlab": version}
        save_record(f"label_issues_{study}", content, **where, **(settings if study == "quality" else {}))


def camvid(folder: Path, split: str) -> _label_issues_study.Scenes:
    """All frames of a split."""
    from PIL import Image

    names = (folder / f"{split}.txt").read_text().split()
    images = [np.array(Image.open(folder / split / f"{name}.jpg").convert("RGB")) for name in names]
    masks = [np.array(Image.open(folder / f"{split}annot" / f"{name}.png")) for name in names]
    lines = (folder / "classes.txt").read_text().splitlines()
    classes = [line.split()[1] for line in lines if line.strip() and int(line.split()[0]) != VOID]
    whole = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return _label_issues_study.Scenes(whole, np.stack(masks), classes)


def made_up(count: int = 6) -> _label_issues_study.Scenes:
    """Blocks of three classes, each of its own color, with some noise and some void."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (count, 4, 6)).repeat(16, 1).repeat(16, 2).astype(np.uint8)
    colors = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]])[truth].transpose(0, 3, 1, 2)
    images = (colors + rng.integers(-30, 30, colors.shape)).clip(0, 255).astype(np.uint8)
    truth[:, :4] = VOID
    return _label_issues_study.Scenes(torch.from_numpy(images), truth, ["red", "green", "blue"])


if __name__ == "__main__":
    main()
