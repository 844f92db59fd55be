"""Tables of a training study, from its JSON: gains of pairs, the share of the gap that was won, students in use."""

from __future__ import annotations

from typing import Any

from _tables import spread

TRUE_LABELS = "true_labels"
Results = list[dict[str, Any]]


def score_of(results: Results) -> tuple[str, str]:
    """Key and name of the score that a record compares methods by."""
    return ("dice", "Dice") if any("student_dice" in result for result in results) else ("miou", "mIoU")


def students(results: Results) -> dict[tuple[int, str], float]:
    """Test scores in percent by seed and method."""
    key, _ = score_of(results)
    return {(result["seed"], result["method"]): 100 * result[f"student_{key}"] for result in results}


def seeds_of(scores: dict[tuple[int, str], float], *methods: str) -> list[int]:
    """Seeds of which all the methods have a score."""
    every = dict.fromkeys(seed for seed, _ in scores)
    return [seed for seed in every if all((seed, method) in scores for method in methods)]


def gap_share(scores: dict[tuple[int, str], float], method: str) -> str:
    """How much of what true labels of all images would win over supervised training a method wins, in percent.

    The gains are summed over the seeds that have all three before they are divided: a seed in which true labels win
    little would else decide. In brackets the least and the most of a single seed.
    """
    if method in ("supervised", TRUE_LABELS):
        return ""
    seeds = seeds_of(scores, method, "supervised", TRUE_LABELS)
    won = [scores[seed, method] - scores[seed, "supervised"] for seed in seeds]
    there = [scores[seed, TRUE_LABELS] - scores[seed, "supervised"] for seed in seeds]
    if not seeds or sum(there) <= 0:
        return ""
    each = [100 * gain / gap for gain, gap in zip(won, there, strict=True) if gap > 0]
    span = f" ({min(each):.0f} to {max(each):.0f})" if len(each) > 1 else ""
    return f"{100 * sum(won) / sum(there):.0f} %{span}"


def pairs(results: Results) -> str:
    """A row for each method that is there with and without correction; gains are paired, seed by seed."""
    scores, (_, name) = students(results), score_of(results)
    methods = list(dict.fromkeys(method for _, method in scores))
    has_gap = TRUE_LABELS in methods and "supervised" in methods
    rows = [
        f"| method | {name} without | {name} with | gain | least gain of a seed |"
        + (" of the gap |" if has_gap else ""),
        "|---|--:|--:|--:|--:|" + ("--:|" if has_gap else ""),
    ]
    for method in methods:
        without = method.split("+")[0]
        seeds = seeds_of(scores, method, without) if method != without else []
        if not seeds:
            continue
        gains = [scores[seed, method] - scores[seed, without] for seed in seeds]
        cells = [spread([scores[seed, each] for seed in seeds]) for each in (without, method)]
        row = f"| {method} | {' | '.join(cells)} | {spread(gains, '+')} | {min(gains):+.1f} |"
        rows.append(row + (f" {gap_share(scores, method)} |" if has_gap else ""))
    return "\n".join(rows) + "\n"


def deployed(results: Results) -> str:
    """Students as they would be used, means over seeds; empty without such scores."""
    key, name = score_of(results)
    held = [result for result in results if "deployed" in result]
    if not held:
        return ""
    ways = list(held[0]["deployed"])
    rows = [
        "| method | " + " | ".join(f"{way}, {name} | s" for way in ways) + " |",
        "|---" + "|--:" * (2 * len(ways)) + "|",
    ]
    for method in dict.fromkeys(result["method"] for result in held):
        found = [result["deployed"] for result in held if result["method"] == method]
        cells = []
        for way in ways:
            seconds = sum(each[way]["seconds_per_image"] for each in found) / len(found)
            cells += [spread([100 * each[way][key] for each in found]), f"{seconds:.2f}"]
        rows.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"
