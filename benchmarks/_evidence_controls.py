"""The section on what else makes masks better without training, from the JSON of `label_correction.py controls`."""

from __future__ import annotations

import json
from typing import Any

from _records import RESULTS
from _tables import origin, spread

TEXT = """### What else needs no training

Rivals on such teachers, each alone and with the whole correction on top, mIoU on {images} evenly spread test frames,
{seeds}. Sizes are 3/4, 1 and 5/4, each mirrored too; the dense CRF (`pydensecrf2`) has the best of 36 settings on
held-out frames; `class prior ^ x` divides probabilities by how frequent a class is among labeled pixels, to that
power. Test-time augmentation and correction add up: neither does what the other does. Labeled pixels alone are no
substitute for the network, and a CRF before the correction takes away what thin classes had left.

`python benchmarks/label_correction.py controls --data CamVid --seeds {numbers} --every {every} --threads 1`
"""


def controls() -> str:
    """The table; empty without a record."""
    path = RESULTS / "label_correction_controls.json"
    if not path.is_file():
        return ""
    record = json.loads(path.read_text(encoding="utf-8"))
    results = [result for result in record["results"] if result["split"] == "test"]
    numbers = sorted({result["seed"] for result in results})
    facts = {
        "images": results[0]["images"],
        "seeds": f"{len(numbers)} seeds" if len(numbers) > 1 else "one seed",
        "numbers": " ".join(map(str, numbers)),
        "every": record["settings"]["every"],
    }
    rows = ["| | alone | gain | fixed / broken | corrected | gain | fixed / broken |", "|---" + "|--:" * 6 + "|"]
    for name in dict.fromkeys(result["control"] for result in results):
        cells = [name]
        for then in ("", "whole"):
            found = [each for each in results if each["control"] == name and each["then"] == then]
            cells += _cells(found)
        rows.append(f"| {' | '.join(cells)} |")
    last = [result for result in results if result["then"] == "whole, dense CRF"]
    if last:
        rows.append(f"| teacher, and a dense CRF after the correction | | | | {' | '.join(_cells(last))} |")
    return "\n".join([TEXT.format(**facts), *rows, "", origin(record), ""])


def _cells(found: list[dict[str, Any]]) -> list[str]:
    """The score, the gain over the plain teacher, and labels fixed for one broken; means over seeds."""
    after = [100 * each["after"] for each in found]
    gains = [100 * (each["after"] - each["before"]) for each in found]
    fixed, broken = (sum(each[key] for each in found) for key in ("fixed", "broken"))
    return [spread(after), spread(gains, "+"), f"{fixed / broken:.2f}" if broken else ""]
