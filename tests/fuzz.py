"""Every public entry under awkward input: a correct finite result, or the documented error.

pytest runs some cases of each (test_fuzz.py). Many more, with figures as JSON:

    python tests/fuzz.py --cases 100000 --out tests/results/fuzz.json
"""

import argparse
import json
import random
import sys
from collections import Counter
from pathlib import Path

import fuzz_graphs
import fuzz_states
import pytest
import torch
from awkward import Refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import graphcorrect as gc
from graphcorrect.backends import explain_backends

ROOT = Path(__file__).parent.parent

ENTRIES = {
    name.removeprefix("fuzz_"): function
    for module in (fuzz_graphs, fuzz_states)
    for name, function in vars(module).items()
    if name.startswith("fuzz_")
}


def run(name, examples):
    """Runs an entry on as many cases of hypothesis, which makes a failing one small; counts answers and refusals."""
    counts = Counter()

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(data=st.data())
    def cases(data):
        counts[outcome(name, lambda values: data.draw(st.sampled_from(values)))] += 1

    cases()
    return counts


def outcome(name, pick):
    try:
        ENTRIES[name](pick)
    except Refused:
        return "refused"
    return "answered"


def run_case(name, number):
    """One random case, the same one for the same number; many times faster than hypothesis's."""
    torch.manual_seed(number)
    return outcome(name, random.Random(f"{name} {number}").choice)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000, help="of all entries together")
    parser.add_argument("--entry", choices=list(ENTRIES), action="append", help="default: all")
    parser.add_argument("--case", type=int, help="only this one, and its error")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    entries = args.entry or list(ENTRIES)
    if args.case is not None:
        print([run_case(name, args.case) for name in entries])
        return
    record = {"failures": [], "entries": {}}
    if args.out and args.out.is_file():  # entries that are not run again stay as they are
        record = json.loads(args.out.read_text())
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from _records import commit

    serving = {name: found.name for name, found in explain_backends().items()}
    record |= {"commit": commit(), "torch": torch.__version__, "graphcorrect": gc.__version__, "serving": serving}
    for name in entries:
        record["failures"] = [line for line in record["failures"] if not line.startswith(f"{name} ")]
        counts = Counter()
        for number in range(args.cases // len(entries)):
            try:
                counts[run_case(name, number)] += 1
            except (Exception, pytest.fail.Exception) as error:
                counts["failed"] += 1
                record["failures"].append(f"{name} --case {number}: {type(error).__name__}: {error}"[:200])
        record["entries"][name] = dict(counts)
        record["cases"] = sum(sum(found.values()) for found in record["entries"].values())
        print(name, dict(counts), flush=True)
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(*record["failures"], sep="\n")


if __name__ == "__main__":
    main()
