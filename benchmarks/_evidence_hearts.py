"""The section on hearts (ACDC): the records of the recipe `acdc_3`, beside the published rows."""

from __future__ import annotations

import json
from typing import Any

from _evidence_pairs import gap_share, pairs, students
from _records import RESULTS
from _tables import spread

RECORDS = ("acdc_3", "acdc_3_unimatch")  # of one commit and the same warm-ups, run side by side

TEXT = """## Hearts, beside published results

ACDC is the one semi-supervised benchmark with published results that could be had here: 3 labeled patients of 70 (68
slices), 10 to choose settings on, 20 to test on, a U-Net of 1.9 million weights from scratch, Dice of a volume, mean
over volumes and the three classes. Correction looks pixels up by an encoder that has never seen a heart:
EfficientNet-Lite0 as ImageNet left it, of the slice at twice its size, joined with the place in the image, 10,000
anchors a class, classes as frequent as they are (`balance=0`). Methods of one seed share warm-up and batches.
"""


def hearts() -> str:
    """The section; empty without records."""
    found = [RESULTS / f"label_correction_training_{name}.json" for name in RECORDS]
    records = [json.loads(path.read_text(encoding="utf-8")) for path in found if path.is_file()]
    if not records:
        return ""
    results = [result for record in records for result in record["results"]]
    schedule, device = records[0]["settings"]["recipe"]["schedule"], records[0]["device"]
    command = (
        "`python benchmarks/label_correction.py training --recipe acdc_3 --data ACDC --seeds 0 1 2 --threads 1 --set "
        f"schedule.steps={schedule['steps']} evaluation.times=1 evaluation.judged=60 evaluation.deployed=false`"
    )
    where = f"{device['cpu']}, torch {device['torch']}; {records[0]['date']}, commit {records[0]['commit']}."
    steps = f"{schedule['warmup']} supervised steps and {schedule['steps']} of each method."
    return "\n".join([TEXT, command, f"\nTest Dice in percent, {steps}\n", by_seed(results), pairs(results), where, ""])


def by_seed(results: list[dict[str, Any]]) -> str:
    """A row a method, a column a seed; then the published rows."""
    scores = students(results)
    seeds = sorted({seed for seed, _ in scores})
    held = {(each["seed"], each["method"]): 100 * each["held_out_student_dice"] for each in results
            if "held_out_student_dice" in each}  # fmt: skip
    rows = [
        f"| method | {' | '.join(f'seed {seed}' for seed in seeds)} | mean | `val` | of the gap |",
        "|---" + "|--:" * (len(seeds) + 3) + "|",
    ]
    for method in dict.fromkeys(method for _, method in scores):
        cells = [f"{scores[seed, method]:.1f}" if (seed, method) in scores else "" for seed in seeds]
        mean = spread([scores[seed, method] for seed in seeds if (seed, method) in scores])
        val = spread([held[seed, method] for seed in seeds if (seed, method) in held])
        rows.append(f"| {method} | {' | '.join(cells)} | {mean} | {val} | {gap_share(scores, method)} |")
    blank = " | " * (len(seeds) - 1)
    for name, value in (("supervised", 41.5), ("UA-MT", 61.0), ("CPS", 60.3), ("UniMatch", 88.9)):
        rows.append(f"| *published: {name}* | {blank} | *{value}* | | |")
    return "\n".join(rows) + "\n"
