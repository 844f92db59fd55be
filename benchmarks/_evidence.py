"""The tables of docs/evidence.md, from the JSON of `label_correction.py` alone; `_render.py` writes the page."""

from __future__ import annotations

import json
from typing import Any

from _evidence_controls import controls
from _evidence_frozen import frozen
from _evidence_grids import grids
from _evidence_hearts import hearts, keys
from _evidence_issues import issues
from _evidence_pairs import deployed
from _evidence_training import (
    FEW,
    FEW_DICE,
    FEW_PAPER,
    INITIAL,
    LONGER,
    ROUNDS,
    dice,
    training,
    unspread,
    varied,
)
from _evidence_use import in_use
from _records import RESULTS
from _tables import origin

INTRODUCTION = """# Evidence

Five numbers, each with what it was measured on:

| | |
|---|---|
| **46.9 to 51.0** | mIoU of a frozen network on 233 street scenes, without training ([how](#a-frozen-teacher)) |
| **+0.1** | the same by the paper's graphs alone: the gain comes from pixels whose labels are known |
| **+1.5**, **+1.6** | mIoU of a student over UniMatch with 12 labeled scenes; 0.2 to 1.2 with 46, three seeds |
| **61 to 69**, **73 to 76** | Dice of hearts, 1 and 3 labeled patients: the best method without correction, and with |
| **34 to 47** | % average precision in finding wrong regions: cleanlab, and by keys ([how](#wrong-annotations)) |

The frozen network's and those of three patients are means over three seeds; deviations are below, with every setting in
which it did not help.

Does the correction correct? Every table here, *published* rows apart, is made from the JSON that `python
benchmarks/label_correction.py` and `label_issues.py` wrote, with every seed in it. The street scenes are CamVid's
at 240 x 180 (11 classes): 48 evenly spread frames of its 367 training frames are held out, on which settings were
chosen; of the rest each seed draws 46 labeled frames at random, and the others are unlabeled. Most training frames
lie 30 frames apart in video, so that an unlabeled frame often has a labeled neighbor in time; the 233 test frames
come from other drives. CamVid's own `val`, one short clip, is not used.

The network is DeepLabV3+ on an EfficientNet-Lite0, the one pretrained backbone that a package registry carries, and
its schedules are those of a CPU. **The paper's ResNet-101 and its 100 epochs were not run**: nothing here stands
for its tables. What can be rerun where its data and a GPU are is in [Reproducing the paper](reproduce.md).
"""

NOISE = """## Labels corrupted on purpose

Features whose true labels are known, a share of the labels replaced: by any other class (uniform), by a class in
proportion to its likeness (similar), or always by the next one (pair), where from half on no neighbor can know
better. An *untrained* refiner, k = 20, against scikit-learn's `LabelSpreading` and torch-geometric's
`LabelPropagation` and `CorrectAndSmooth` with k = 20 too, each at five shares of the neighbors (the last at one):
the best of those eleven at each level, chosen with the truth at hand. Share of right labels in %, means over
{draws} draws; seconds from features to labels, search included.

`paper` is the paper's setting and the default. `cautious` is for labels that are often wrong: rounds are
simultaneous (Table VI), features take 0.3 of their class's mean rather than 0.5, a node takes 0.95 of its neighbors'
opinion, and the last round makes the labels. Features drawn to wrong labels early confirm them. Where a fifth of the
labels or fewer are wrong a node's own label is worth more than that, and `paper` is the better one. Bold: at least
level with the best peer. One of the two is, to a tenth of a point, at every level but pair from 50 % on, where what
keeps the labels as they are breaks the fewest.

![Right labels over wrong ones for the two settings and the best peer](images/noise.png)

`python benchmarks/label_correction.py noise --data CamVid`
"""

TRIALS = """### What the settings of that run rest on

Trials on seed 0, scored on the 48 held-out frames, never on the test frames: so many supervised steps, then so many
of the method. Labels are the teacher's of 32 unlabeled frames at the end; `as built`: by graphs that are not trained.

Three things cost more than correction brings back in so few steps. Labels made by argmax: a thin class loses most of
its pixels to its neighbors, the student learns that, and its next labels have fewer still; under self-training signs
go from 25 to 12 in IoU and poles from 9 to 5. Harsh colors: signs and sky are known by theirs. And trained graphs,
which corrected worse than the plain propagation they began with; they too learn from labeled images, which the
network knows by heart, and that is our guess at the cause. Supervised training is far from its end at this point and
gains as much from further steps as any method does.
"""


def page() -> str:
    parts = [INTRODUCTION]
    sections = {
        "noise": noise,
        "frozen": frozen,
        "training": training,
        "training_initial": varied(INITIAL),
        "training_dice": dice,
        "training_few": varied(FEW),
        "training_few_dice": varied(FEW_DICE),
        "training_few_mllc": varied(FEW_PAPER),
        "training_longer": unspread(LONGER),
        "training_rounds": lambda record: unspread(ROUNDS)(record) + "\n" + deployed(record["results"]),
        "trials": trials,
        "training_digits": training,
    }
    for name, section in sections.items():
        path = RESULTS / f"label_correction_{name}.json"
        if path.is_file():
            record = renamed(json.loads(path.read_text(encoding="utf-8")))
            parts.append(section(record) + f"\n{origin(record)}\n")
        if name == "frozen":
            parts += filter(None, [grids(), controls()])
    parts += [section for section in (hearts(), in_use(), keys()) if section] + issues()
    return "\n".join(parts)


def renamed(record: dict[str, Any]) -> dict[str, Any]:
    """A record of the time when `mllc` was what looked labeled pixels up too, with the paper's losses or without."""
    recipe = record["settings"].get("recipe", {})
    loss, looked_up = recipe.get("loss", {}), recipe.get("anchors", {}).get("use")
    for result in record["results"]:
        if result.get("method") == "mllc" and (looked_up or "trial" in result):
            has_losses = "SLG" in result["trial"] if "trial" in result else loss["slg_weight"] or loss["clg_weight"]
            result["method"] = "mllc+anchors" if has_losses else "anchors+graphs"
    return record


def noise(record: dict[str, Any]) -> str:
    text = NOISE.format(draws=record["settings"]["draws"])
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in record["results"]:
        groups.setdefault((result["problem"], result["kind"]), []).append(result)
    rows = [
        "| features | noise | wrong | given | paper | cautious | best peer | | seconds: cautious | that peer |",
        "|---|---|--:|--:|--:|--:|--:|---|--:|--:|",
    ]
    for (problem, kind), results in groups.items():
        for result in results:
            sides = result["sides"]
            peers = {name: side for name, side in sides.items() if not name.startswith("refiner")}
            best = max(peers, key=lambda name: peers[name]["right"])
            paper, cautious = sides["refiner, paper"], sides["refiner, cautious"]
            shares = [result["before"], paper["right"], cautious["right"], peers[best]["right"]]
            shown = [f"{100 * share:.1f}" for share in shares]
            for ours in (1, 2):
                if shares[ours] >= shares[3]:
                    shown[ours] = f"**{shown[ours]}**"
            seconds = f"{cautious['seconds']:.2f} | {peers[best]['seconds']:.2f}"
            first = f"{problem} | {kind} | {result['rate']:.0%}"
            rows.append(f"| {first} | {' | '.join(shown)} | {best} | {seconds} |")
    return text + "\n" + "\n".join(rows) + "\n"


def trials(record: dict[str, Any]) -> str:
    rows = [
        "| steps | method | setting | student | teacher | labels | corrected | as built |",
        "|---|---|---|--:|--:|--:|--:|--:|",
    ]
    for result in record["results"]:
        labels = result["labels"]
        trained = "untrained" in labels
        shown = [labels["before"], labels["corrected"]] + ([labels["untrained"]] if trained else [])
        scores = [result["student"], result["teacher"], *(each["miou"] for each in shown)]
        cells = [f"{100 * score:.1f}" for score in scores] + ([] if trained else [""])
        rows.append(f"| {result['steps']} | {result['method']} | {result['trial']} | {' | '.join(cells)} |")
    return TRIALS + "\n" + "\n".join(rows) + "\n"
