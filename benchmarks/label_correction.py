"""Does the correction correct? Eight studies, each a JSON that the documentation is made from.

    python benchmarks/label_correction.py noise                        # labels corrupted on purpose; minutes
    python benchmarks/label_correction.py frozen --data CamVid         # one teacher, corrected in many ways
    python benchmarks/label_correction.py training --data CamVid       # pairs of methods, three seeds; hours on a CPU
    python benchmarks/label_correction.py training --data acdc --recipe acdc_3 --seeds 0 1 2
    python benchmarks/label_correction.py anchors --data CamVid        # the same teacher, faster look-ups
    python benchmarks/label_correction.py controls --data CamVid       # what else needs no training: CRF, flips, priors
    python benchmarks/label_correction.py keys --data acdc --recipe acdc_3   # what pixels are best looked up by
    python benchmarks/label_correction.py grids --data CamVid          # graphs of few nodes, networks of coarse answers
    python benchmarks/label_correction.py use --data CamVid            # trained students, corrected by the one call
    python benchmarks/label_correction.py --smoke                      # all at their smallest

`noise` needs no network: features of which the true labels are known, 10 to 60 % of the labels replaced. `frozen`
trains a teacher on few labels, keeps what it says of unlabeled images, and corrects that, with and without each part,
beside peers on the same neighbors. `training` runs the reference trainer. `anchors` corrects the frozen teacher's
labels with each of the settings that make a look-up fast: what is left of the gain, and the seconds of a frame.
`keys` corrects a teacher's labels by each kind of keys. `controls` has test-time augmentation, a dense CRF (`pip
install pydensecrf2`), classes weighed by how rare they are and the anchors alone, and corrects on top of each.
`grids` looks pixels up where graphs have few nodes, or the network answers coarsely. `use` corrects what the students
of `training` (trained here unless `--runs` has them) say of the test images, with and without augmentation.
Settings were chosen on training frames that were held out, never on the test images; both are reported.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from _records import RESULTS, Smoke

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))  # the trainer, as its scripts see it

import _anchor_study
import _control_study
import _frozen_study
import _grid_study
import _key_study
import _noise_study
import _training_study
import _use_study

STUDIES = {
    "noise": _noise_study.main,
    "frozen": _frozen_study.main,
    "training": _training_study.main,
    "anchors": _anchor_study.main,
    "keys": _key_study.main,
    "controls": _control_study.main,
    "grids": _grid_study.main,
    "use": _use_study.main,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="*", choices=[*STUDIES, []], help="default: all")
    parser.add_argument("--data", help="folder in CamVid's layout; without it the embedded digits")
    parser.add_argument(
        "--labeled", default=None, help="labeled images to draw; default: 46 of CamVid, 60 of the digits"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="each draws its own labeled images")
    parser.add_argument("--runs", type=Path, default=Path("runs/label_correction"), help="where networks are kept")
    parser.add_argument(
        "--methods",
        nargs="+",
        help="methods of the trainer, and true_labels: supervised, with the unlabeled images' true labels: a bound; "
        "default: those of the recipe, and that",
    )
    parser.add_argument("--recipe", help="of the trainer; default: camvid_small with --data, else digits")
    parser.add_argument("--threads", type=int, default=None, help="of torch; one, to time a core")
    parser.add_argument(
        "--every", type=int, default=1, help="judge every so many images: anchors, controls, grids, use"
    )
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="over the trainer's recipe")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON")
    parser.add_argument("--smoke", action=Smoke)
    args = parser.parse_args()
    if args.smoke:
        args.seeds, args.runs, args.methods = [0], args.out / "runs", ["mllc", "true_labels"]
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    for study in args.study or STUDIES:
        STUDIES[study](args)


if __name__ == "__main__":
    main()
