"""Prints the tables of docs/reliability.md from the committed results: `python docs/list_reliability.py`."""

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent


def load(path: str) -> dict:
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def fuzzing() -> str:
    record = load("tests/results/fuzz.json")
    lines = ["| entry | cases | answered | refused as documented | failed, and looked into |", "|---|--:|--:|--:|--:|"]
    totals = [0, 0, 0]
    for name, counts in record["entries"].items():
        row = [counts.get(outcome, 0) for outcome in ("answered", "refused", "failed")]
        totals = [total + count for total, count in zip(totals, row, strict=True)]
        lines.append(f"| {name} | {sum(row):,} | " + " | ".join(f"{count:,}" for count in row) + " |")
    lines.append(f"| **all** | **{sum(totals):,}** | " + " | ".join(f"{count:,}" for count in totals) + " |")
    return "\n".join(lines)


def errors() -> str:
    """Value and gradient error of each operation, a column for each precision."""
    found: dict[str, dict[str, str]] = {}
    for row in load("benchmarks/results/numerics.json")["errors"]:
        gradient = f" / {row['gradient']:.0e}" if "gradient" in row else ""
        found.setdefault(row["operation"], {})[row["dtype"]] = f"{row['value']:.0e}{gradient}"
    dtypes = ("float32", "float16", "bfloat16")
    lines = [f"| value / gradient | {' | '.join(dtypes)} |", "|---|--:|--:|--:|"]
    lines += [f"| {name} | {' | '.join(each[dtype] for dtype in dtypes)} |" for name, each in found.items()]
    return "\n".join(lines)


TABLES = (fuzzing, errors)

if __name__ == "__main__":
    print(*(table() for table in TABLES), sep="\n\n")
