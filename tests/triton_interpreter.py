"""Triton's kernels on the CPU: the functions `interpreted_*` of a test file, run by one of its tests.

In a process of its own, where TRITON_INTERPRET=1 has them interpreted: triton reads it on import, so it would bind the
whole session.
"""

import os
import subprocess
import sys

import pytest


def run_interpreted(path):
    """Runs the functions `interpreted_*` of a test file."""
    pytest.importorskip("triton")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-o", "python_functions=interpreted_*"]
        + [path],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=os.path.dirname(os.path.dirname(__file__)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert " passed" in run.stdout
    assert "skipped" not in run.stdout
