"""Writes docs/benchmarks.md and docs/evidence.md from the committed JSON alone: `python benchmarks/_render.py`.

`--check` fails where a page is not what the JSON says.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import _evidence
from _harness import Case, human_bytes, reference_of
from _records import RESULTS
from knn_throughput import least_seconds
from scaling import LINEAR, fits

DOCS = Path(__file__).parent.parent / "docs"
TITLES = {
    "launches": (
        "Operations that a GPU launches",
        "Two images of 24 x 24 nodes, forward and backward, beside dense matrices that compute the same. On a CPU\n"
        "torch's operations are counted, views and allocations apart; `with Triton` counts each operation\n"
        "that Triton serves on CUDA as one, though a few are two or three kernels (a test counts kernels: at most\n"
        "200 for the refiner). A launch takes some 5 microseconds, whatever it computes. The training step is what a\n"
        "user adds to one: refiner, prototypes, the losses of Eq. (17), and the update of the anchors.",
    ),
    "class_graph": (
        "Class graph",
        "Building the class-level graph, multiplying it with features and differentiating: the exact linear form\n"
        "against the dense matrix, whose diagonal products are scalings already.",
    ),
    "slg_loss": (
        "Pair loss",
        "Value and gradient of the pair term of Eq. (12): the exact linear form against the dense similarities.",
    ),
    "knn_throughput": (
        "Neighbor search",
        "The 20 most similar nodes of every node of B images, self excluded, by cosine. `auto` is what `knn` does\n"
        "unless told otherwise; `matmul + topk` is what people write themselves; `torch alone` is `auto` without\n"
        "the loops that numba compiles, where it is installed.",
    ),
    "refiner_step": (
        "A refiner step",
        "One `DualGraphRefiner`, forward and backward (C = 21, D = 256, two rounds), against the paper's dense\n"
        "matrices without their cubic products, and beside a training step of the network it sits on. A compiled side\n"
        "(torch.compile) is held against ours, compiled; `torch alone` is ours without the loops that numba compiles.",
    ),
    "anchors": (
        "Anchor banks",
        "An update of a full bank of 21 classes with 1,024 nodes, beside writing the bank anew, and the look-up of\n"
        "the 20 nearest anchors with their votes, beside one float32 product of packed rows and `topk`; what the\n"
        "approximate settings cost in quality is [on its own page](anchors.md). `pack` is what the first look-up\n"
        "after an update adds.",
    ),
    "scaling": (
        "Growth with the number of nodes",
        "Time and peak memory of the class graph, the pair loss and one propagation over 20 neighbors, forward and\n"
        "backward; the exponents are fitted from 10,000 nodes on. Below, the memory of a search against its budget:\n"
        "unit rows, their rounded copies, the result and what the allocator keeps come on top.\n\n"
        "![Time and peak memory over the number of nodes](images/scaling.png)",
    ),
}


def page() -> str:
    parts = [
        "# Benchmarks\n",
        "Every table here is made from the JSON in `benchmarks/results`, a folder a device, which holds every\n"
        "sample. Both sides are checked to agree, then alternate in one process; ratios are medians of paired\n"
        "rounds with their 95 % interval. Peak memory is above the inputs. Machines differ: run the scripts on\n"
        "yours. Each table has the commit that it was measured at: some are older than others.\n",
    ]
    for name, (title, text) in TITLES.items():
        paths = sorted(RESULTS.rglob(f"{name}.json"))
        if paths:
            parts.append(f"## {title}\n\n{text}\n")
        for path in paths:
            record = json.loads(path.read_text(encoding="utf-8"))
            parts.append(f"{source_of(record, path)}\n\n{rows_of(name, record)}")
            if record["settings"].get("limits"):
                parts.append(limits_of(record["settings"]["limits"], cases_of(record)))
    return "\n".join(parts)


def source_of(record: dict[str, Any], path: Path) -> str:
    """The command behind a table, the machine, the versions and the commit."""
    device = record["device"]
    place = "" if path.parent == RESULTS else f"`{path.parent.name}`: "
    kernels = device.get("openblas_coretype")
    setting = f"OPENBLAS_CORETYPE={kernels} " if kernels else ""
    option = " --device cuda" if device["type"] == "cuda" else ""
    where = device.get("gpu") or f"{device['cpu']}, {device['threads']} threads"
    instructions = f" ({', '.join(device['instructions'])})" if device.get("instructions") else ""
    numba = f", numba {device['numba']}" if device.get("numba") else ""
    scores = f", coarse scores in {device['coarse_scores']}" if device.get("coarse_scores") else ""
    versions = f"torch {device['torch']}{numba}, {record['settings']['dtype']}{scores}"
    command = f"`{setting}python benchmarks/{record['benchmark']}.py{option}`"
    return f"{place}{command}; {where}{instructions}; {versions}; {record['date']}, commit {record['commit']}."


def cases_of(record: dict[str, Any]) -> list[Case]:
    return [Case(**case) for case in record["cases"]]


def limits_of(limits: dict[str, float], cases: list[Case]) -> str:
    """How far a search is from what the machine can do."""
    rate, copied = limits["float16 FLOP/s"] / 1e12, limits["bytes/s"] / 1e12
    rows = [
        f"Least time: one float16 product of all pairs at the {rate:,.0f} TFLOP/s that a large product reached beside\n"
        f"these runs, or rows read and neighbors written once at {copied:.1f} TB/s, whichever is longer.\n",
        "| B x N | least time, ms | auto, ms | times the least |",
        "|--:|--:|--:|--:|",
    ]
    for case in cases:
        least, taken = least_seconds(case.sizes, limits), case.median_seconds("auto")
        size = f"{case.sizes['batch']} x {case.sizes['num_nodes']}"
        rows.append(f"| {size} | {1e3 * least:.3f} | {1e3 * taken:.3f} | {taken / least:.1f} |")
    return "\n".join(rows) + "\n"


def rows_of(name: str, record: dict[str, Any]) -> str:
    if name == "launches":
        return launches_table(record)
    return {"scaling": scaling_table, "anchors": anchors_table}.get(name, table)(cases_of(record))


def launches_table(record: dict[str, Any]) -> str:
    """A row for each layer, and for each number of classes three columns."""
    counts = record["counts"]
    classes = list(dict.fromkeys(count["num_classes"] for count in counts))
    heads = (f"C = {number}: torch alone | with Triton | dense" for number in classes)
    rows = ["| | " + " | ".join(heads) + " |", "|---|" + "--:|" * (3 * len(classes))]
    for name in dict.fromkeys(count["name"] for count in counts):
        found = {count["num_classes"]: count["operations"] for count in counts if count["name"] == name}
        cells = (
            f"{found[number]['graphcorrect']['torch']:,} | {found[number]['graphcorrect']['triton']:,} | "
            f"{found[number]['dense']['torch']:,}"
            for number in classes
        )
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def anchors_table(cases: list[Case]) -> str:
    """Updates, then look-ups: each side against the last one that is no packing."""
    rows = []
    for what, head in (("update", "anchors x entries"), ("look-up", "anchors x entries, queries")):
        rows += [f"| {head} | {what} | median ms | times faster | peak memory | recall |", "|--:|---|--:|--:|--:|--:|"]
        for case in cases:
            if case.sizes["what"] != what:
                continue
            size = f"{case.sizes['anchors']:,} x {case.sizes['feature_dim']}"
            size += f", {case.sizes['queries']:,}" if "queries" in case.sizes else ""
            reference = [side for side in case.seconds if not side.endswith(", pack")][-1]
            for side in case.seconds:
                is_timed = side != reference and not side.endswith(", pack")
                ratio = "{:.1f} ({:.1f} to {:.1f})".format(*case.ratio(reference, side)) if is_timed else ""
                memory = human_bytes(case.peak_bytes[side]) if side in case.peak_bytes else ""
                found = f"{case.agreement[side]:.3f}" if what == "look-up" and side in case.agreement else ""
                rows.append(f"| {size} | {side} | {milliseconds(case, side)} | {ratio} | {memory} | {found} |")
        rows.append("")
    return "\n".join(rows)


def scaling_table(cases: list[Case]) -> str:
    """One column a side, its exponents below, then the memory of the search by its budget."""
    rows = [
        "| N | " + " | ".join(f"{name}, ms | MiB" for name in LINEAR) + " |",
        "|--:|" + "--:|" * (2 * len(LINEAR)),
    ]
    for case in cases:
        if case.seconds:
            memory = {name: (case.peak_bytes[name] or 0) / 2**20 for name in LINEAR}
            cells = (f"{1e3 * case.median_seconds(name):,.1f} | {memory[name]:,.0f}" for name in LINEAR)
            rows.append(f"| {case.sizes['num_nodes']:,} | " + " | ".join(cells) + " |")
    exponents = (fits(cases, name)[what] for name in LINEAR for what in ("time", "memory"))
    rows.append("| exponent | " + " | ".join("{:.2f} ({:.2f} to {:.2f})".format(*each) for each in exponents) + " |")
    search = cases[-1]
    rows += ["", "| search of N | budget | peak memory |", "|--:|---|--:|"]
    for budget, peak in search.peak_bytes.items():
        rows.append(f"| {search.sizes['num_nodes']:,} | {budget} | {human_bytes(peak)} |")
    return "\n".join(rows) + "\n"


def table(cases: list[Case]) -> str:
    ours = next(iter(cases[0].seconds))
    rows = [f"| B x N | | median ms | time / {ours} | peak memory | error or recall |", "|--:|---|--:|--:|--:|--:|"]
    for case in cases:
        size = f"{case.sizes.get('batch', 1)} x {case.sizes['num_nodes']}"
        for side in case.seconds:
            reference = reference_of(side, ours)
            ratio = "" if side == reference else "{:.2f} ({:.2f} to {:.2f})".format(*case.ratio(side, reference))
            memory = human_bytes(case.peak_bytes[side]) if side in case.peak_bytes else ""
            agreement = agreement_of(case, side)
            name = side.replace("training step", f"{case.sizes.get('network')}, one step")
            rows.append(f"| {size} | {name} | {milliseconds(case, side)} | {ratio} | {memory} | {agreement} |")
    return "\n".join(rows) + "\n"


def milliseconds(case: Case, side: str) -> str:
    taken = 1e3 * case.median_seconds(side)
    return f"{taken:,.1f}" if taken >= 10 else f"{taken:.2f}"


def agreement_of(case: Case, side: str) -> str:
    """A recall for a search, a relative error for the others."""
    if "num_neighbors" in case.sizes:
        return f"recall {case.agreement[side]:.4f}"
    if side in case.agreement:
        return f"{case.agreement[side]:.0e}"
    return f"{max(case.agreement.values()):.0e}" if side == "dense" and case.agreement else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page is out of date")
    args = parser.parse_args()
    for name, content in (("benchmarks", page()), ("evidence", _evidence.page())):
        path = DOCS / f"{name}.md"
        if not args.check:
            path.write_text(content, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != content:
            sys.exit(f"{path} is not what benchmarks/results says: run python benchmarks/_render.py")


if __name__ == "__main__":
    main()
