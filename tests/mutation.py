"""Mutation testing: cosmic-ray's mutants of a file, each against the tests of that file.

    pip install cosmic-ray
    python tests/mutation.py --sample 400 --out tests/results/mutation.json

cosmic-ray itself starts Python, and so imports torch, for every mutant. Here one process has imported torch and forks a
child for each, which imports a copy of the package with the mutated file in it. Mutants of annotations are
left out: they change nothing that runs. A child that takes `--cpu` seconds of processor time counts as killed.
"""

import argparse
import ast
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
TESTS = {
    "graphs/affinity.py": "affinity errors refine",
    "graphs/class_block.py": "consistency operator refine",
    "graphs/consistency.py": "consistency errors refine",
    "graphs/neighbor.py": "operator affinity refine",
    "graphs/operator.py": "operator affinity consistency errors pyg",
    "losses/_reduce.py": "slg clg correction_loss errors",
    "losses/clg.py": "clg errors correction_loss",
    "losses/correction.py": "correction_loss errors",
    "losses/slg.py": "slg errors correction_loss",
    "refine.py": "refine errors",
    "refined_labels.py": "refine",
}


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


def run_tests(names, source, cpu_seconds, folder, more=()):
    """Exit status of pytest in a forked child, with `source` in place of the one file named; negative: a signal."""
    package = Path(folder) / "graphcorrect"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(ROOT / "graphcorrect", package, ignore=shutil.ignore_patterns("__pycache__"))
    if source is not None:
        (package / names[0]).write_text(source, encoding="utf-8")
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
        log = os.open(os.devnull if source else f"{folder}/log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.path.insert(0, folder)  # processes that tests start see the copy too
        os.environ["PYTHONPATH"] = folder
        tests = dict.fromkeys([test for name in names for test in TESTS[name].split()] + list(more))
        files = [str(ROOT / f"tests/test_{test}.py") for test in tests]
        options = ["-x", "-q", "--assert=plain", "-p", "no:cacheprovider", "-k", "not compiled and not exported"]
        os._exit(int(pytest.main([*options, *files])))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


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
    parser.add_argument("--cpu", type=int, default=150, help="processor seconds for one mutant")
    parser.add_argument("--only", nargs="*", help="files such as losses/slg.py")
    parser.add_argument("--again", type=Path, help="only the survivors of this file, against more tests")
    parser.add_argument("--trust", action="store_true", help="do not run the tests without a mutant first")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    os.chdir(ROOT)
    sys.dont_write_bytecode = True
    sys.path[:] = [str(ROOT / "tests"), *(place for place in sys.path if place != str(ROOT))]
    os.environ["OMP_NUM_THREADS"] = "1"
    folder = tempfile.mkdtemp()
    torch.set_num_threads(1)
    names = args.only or [name for name in TESTS if (ROOT / "graphcorrect" / name).exists()]
    everything = [(name, *mutant) for name in names for mutant in mutants_of(ROOT / "graphcorrect" / name)]
    chosen = everything
    if args.again:
        wanted = {tuple(survivor["mutant"]) for survivor in json.loads(args.again.read_text())["survivors"]}
        chosen = [mutant for mutant in everything if (mutant[0], mutant[1], mutant[3]) in wanted]
    else:
        random.Random(args.seed).shuffle(chosen)
        chosen = chosen[: args.sample or len(chosen)]
    if not args.trust and run_tests(names, None, 10 * args.cpu, folder):
        sys.exit(f"the tests fail without any mutant:\n{Path(folder, 'log').read_text()[-3000:]}")
    record = {"mutants": len(everything), "seed": args.seed, "tried": 0, "killed": 0, "files": {}, "survivors": []}
    start = time.monotonic()
    for name, operator_name, operator_args, occurrence, line in chosen:
        if time.monotonic() - start > 60 * args.minutes:
            break
        path = ROOT / "graphcorrect" / name
        mutated = mutate(path, operator_name, operator_args, occurrence)
        killed = run_tests([name], mutated, args.cpu, folder, ("layers", "fuzz") if args.again else ()) != 0
        counts = record["files"].setdefault(name, {"tried": 0, "killed": 0})
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
