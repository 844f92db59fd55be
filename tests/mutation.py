"""Mutation testing: cosmic-ray's mutants of a file, each against the tests of that file.

    pip install cosmic-ray
    python tests/mutation.py --sample 400 --out tests/results/mutation.json

cosmic-ray itself starts Python, and so imports torch, for every mutant. Here one process has imported torch and forks a
child for each, which imports a copy of the package with the mutated file in it. Mutants of annotations are
left out: they change nothing that runs.

Numba would compile a mutated kernel, and every kernel that calls it, for half a minute. So kernels are run as the
Python they are written in (NUMBA_DISABLE_JIT=1), and all other files by plain torch. A file's tests run without a
mutant first: they must pass, and a mutant that takes four times their processor time, or `--cpu` seconds if that is
more, counts as killed.
"""

import argparse
import ast
import fnmatch
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import hypothesis.strategies  # noqa: F401  (this and what follows is imported here, once for all children)
import pytest
import torch._dynamo
import torch.testing

ROOT = Path(__file__).parent.parent
KERNELS = "ops/kernels/cpu/*.py"
# Files of the package -> tests/test_*.py; a file has the tests of all patterns that fit it, of those that there are.
TESTS = {
    "graphs/*.py": "affinity consistency operator errors refine pyg",
    "losses/*.py": "slg clg correction_loss errors",
    "banks/*.py": "anchors anchor_sampling prototypes threshold teacher errors",
    "maps.py": "propagate maps refine",
    "functional.py": "propagate guided labels",
    "refine.py": "refine errors",
    "refined_labels.py": "refine",
    "backends.py": "backends",
    "ops/_dispatch.py": "dispatch ops ops_tracing backends",
    "ops/neighbor*.py": "ops ops_tracing knn knn_tracing affinity operator",
    "ops/class*.py": "ops ops_tracing consistency operator",
    "ops/pair_sum.py": "ops ops_tracing slg",
    "ops/unit_rows.py": "ops ops_tracing nodes unit_rows",
    "ops/majority_vote.py": "ops ops_tracing labels majority_vote",
    KERNELS: "ops ops_tracing",
    "ops/kernels/cpu/rows.py": "nodes unit_rows",
    "ops/kernels/cpu/class*.py": "consistency operator",
    "ops/kernels/cpu/pairs.py": "slg",
    "ops/kernels/cpu/[fqt]*.py": "knn_filter knn knn_tracing",
}


def files():
    """The package's files that have tests here, with their tests."""
    found = {}
    for path in sorted((ROOT / "graphcorrect").rglob("*.py")):
        name = path.relative_to(ROOT / "graphcorrect").as_posix()
        named = [test for pattern, tests in TESTS.items() if fnmatch.fnmatch(name, pattern) for test in tests.split()]
        tests = [test for test in dict.fromkeys(named) if (ROOT / f"tests/test_{test}.py").exists()]
        if tests and path.name != "__init__.py":
            found[name] = tests
    return found


def annotation_lines(source):
    """(start, end) of every annotation, each as (line, column)."""
    found = []
    for node in ast.walk(ast.parse(source)):
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(part, ast.expr):
                found.append(((part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)))
    return found


def mutants_of(path):
    """(operator's name, its arguments, occurrence, line) of every mutant of a file, annotations left out."""
    from cosmic_ray.commands.init import _all_work_items

    annotations = annotation_lines(path.read_text(encoding="utf-8"))
    for item in _all_work_items([path], {}):
        for spec in item.mutations:
            if not any(start <= spec.start_pos <= end for start, end in annotations):
                yield spec.operator_name, dict(spec.operator_args), spec.occurrence, spec.start_pos[0]


def mutate(path, operator_name, operator_args, occurrence):
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    return mutate_code(path.read_text(encoding="utf-8"), get_operator(operator_name)(**operator_args), occurrence)


def run_tests(name, tests, source, cpu_seconds, folder):
    """Exit status of pytest in a forked child with `source` in place of a file, negative: a signal; and its seconds."""
    package = Path(folder) / "graphcorrect"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(ROOT / "graphcorrect", package, ignore=shutil.ignore_patterns("__pycache__"))
    if source is not None:
        (package / name).write_text(source, encoding="utf-8")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
        log = os.open(os.devnull if source else f"{folder}/log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.path.insert(0, folder)  # processes that tests start see the copy too
        os.environ["PYTHONPATH"] = folder
        os.environ["NUMBA_DISABLE_JIT" if is_interpreted(name) else "GRAPHCORRECT_NUMBA"] = str(
            int(is_interpreted(name))
        )
        paths = [str(ROOT / f"tests/test_{test}.py") for test in tests]
        options = ["-x", "-q", "--assert=plain", "-p", "no:cacheprovider", "-k", "not compiled and not exported"]
        os._exit(int(pytest.main([*options, *paths])))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return status, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def is_interpreted(name):
    """Whether a file's tests run numba's kernels, as Python: those of kernels, and of the rule that chooses them."""
    return fnmatch.fnmatch(name, KERNELS) or name == "ops/_dispatch.py"


def changed_line(path, mutated, line):
    """What the mutant's line says, and what it said."""
    before, after = path.read_text(encoding="utf-8").splitlines(), mutated.splitlines()
    for number, (old, new) in enumerate(zip(before, after, strict=False), 1):
        if old != new:
            return f"{number}: {old.strip()}  ->  {new.strip()}"
    return f"{line}: {before[line - 1].strip()}  ->  (removed)"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=0, help="so many mutants, drawn evenly; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so long; the order is random")
    parser.add_argument("--cpu", type=int, default=60, help="processor seconds that any mutant may take")
    parser.add_argument("--only", nargs="*", help="files such as losses/slg.py, or patterns such as 'ops/*.py'")
    parser.add_argument("--again", type=Path, help="only the survivors of this file, against more tests")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from _records import commit

    sys.dont_write_bytecode = True
    sys.path[:] = [str(ROOT / "tests"), *(place for place in sys.path if place not in (str(ROOT), ""))]
    os.environ["OMP_NUM_THREADS"] = "1"
    assert not {"numba", "graphcorrect"} & set(sys.modules), "children import these, as they are told to"
    folder = tempfile.mkdtemp()
    torch.set_num_threads(1)
    tests_of = {
        name: [*tests, *(("layers", "fuzz") if args.again else ())]
        for name, tests in files().items()
        if not args.only or any(fnmatch.fnmatch(name, pattern) for pattern in args.only)
    }
    everything = [(name, *mutant) for name in tests_of for mutant in mutants_of(ROOT / "graphcorrect" / name)]
    chosen = everything
    if args.again:
        wanted = {tuple(survivor["mutant"]) for survivor in json.loads(args.again.read_text())["survivors"]}
        chosen = [mutant for mutant in everything if (mutant[0], mutant[1], mutant[3]) in wanted]
    else:
        random.Random(args.seed).shuffle(chosen)
        chosen = chosen[: args.sample or len(chosen)]
    record = {"commit": commit(), "torch": torch.__version__, "mutants": len(everything), "seed": args.seed}
    record |= {"tried": 0, "killed": 0, "files": {}, "survivors": []}
    seconds = {}  # of each file's tests without a mutant
    start = time.monotonic()
    for name, operator_name, operator_args, occurrence, line in chosen:
        if time.monotonic() - start > 60 * args.minutes:
            break
        path, tests = ROOT / "graphcorrect" / name, tests_of[name]
        if name not in seconds:
            status, seconds[name] = run_tests(name, tests, None, 3600, folder)
            if status:
                sys.exit(f"{name}: {tests} fail without any mutant:\n{Path(folder, 'log').read_text()[-3000:]}")
        mutated = mutate(path, operator_name, operator_args, occurrence)
        killed = run_tests(name, tests, mutated, max(args.cpu, int(4 * seconds[name])), folder)[0] != 0
        counts = record["files"].setdefault(name, {"tried": 0, "killed": 0, "tests": tests})
        for tally in (record, counts):
            tally["tried"] += 1
            tally["killed"] += killed
        if not killed:
            change = changed_line(path, mutated, line)
            record["survivors"].append({"mutant": [name, operator_name, occurrence], "change": change})
            print(name, operator_name, change, flush=True)
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(record, indent=1) + "\n")
    shutil.rmtree(folder)
    print(f"{record['killed']} of {record['tried']} mutants killed, of {record['mutants']} there are")


if __name__ == "__main__":
    main()
