"""What a measurement is written down with: the commit, the machine, the versions, and the folder of its device."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
# Of /proc/cpuinfo, those that decide how fast products are, the widest last
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")


class Smoke(argparse.Action):
    """`--smoke`: the smallest sizes, whose figures leave the results alone unless `--out` says where."""

    def __init__(self, option_strings: list[str], dest: str, help: str = "the smallest sizes, for CI") -> None:
        super().__init__(option_strings, dest, nargs=0, default=False, help=help)

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: Any) -> None:
        namespace.smoke = True
        if namespace.out == parser.get_default("out"):
            namespace.out = Path(tempfile.mkdtemp(prefix="smoke-"))


def save_record(
    name: str, content: dict[str, Any], *, device: torch.device, folder: Path | None = None, **settings: Any
) -> Path:
    """Writes whatever was found, with where and how; without a folder to that of the device."""
    facts = describe(device)
    folder = RESULTS / device_name(facts) if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    record = {
        "benchmark": name,
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "device": facts,
        "settings": nowhere(settings),
    }
    path.write_text(json.dumps(record | content, indent=1) + "\n", encoding="utf-8")
    return path


def nowhere(settings: Any) -> Any:
    """Settings whose paths are names alone: where a machine keeps its files is nobody's matter."""
    if isinstance(settings, dict):
        return {key: nowhere(value) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [nowhere(value) for value in settings]
    is_path = isinstance(settings, Path) or (isinstance(settings, str) and Path(settings).is_absolute())
    return Path(settings).name if is_path else settings


def commit(root: Path = ROOT) -> str:
    """The commit that is checked out, with "-dirty" where tracked files differ from it.

    Results do not count, so that one run after another can be written and then committed; nor do files that git does
    not track.
    """
    name = _git(root, "describe", "--always")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude,glob)**/results/**")
    return f"{name}-dirty" if name and changed else name or "unknown"


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    except OSError:  # no git on this machine
        return ""
    return done.stdout.strip()


def describe(device: torch.device) -> dict[str, Any]:
    """The machine and the versions that a figure depends on."""
    facts: dict[str, Any] = {
        "type": device.type,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "cpu": cpu_fact("model name") or platform.processor() or platform.machine(),
        "instructions": [each for each in INSTRUCTIONS if each in cpu_fact("flags").split()],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "numba": importlib.metadata.version("numba") if importlib.util.find_spec("numba") else None,
    }
    if "OPENBLAS_CORETYPE" in os.environ:  # whose kernels faiss runs
        facts["openblas_coretype"] = os.environ["OPENBLAS_CORETYPE"]
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
    return facts


def cpu_fact(key: str) -> str:
    """What Linux says of its first processor under a key; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def device_name(facts: dict[str, Any]) -> str:
    """The folder of a device's results: "h200" for a GPU; a processor's name and widest instructions, "xeon-amx"."""
    if "gpu" in facts:
        return _words(facts["gpu"])[-1]
    family = next((word for word in _words(facts["cpu"]) if word in ("xeon", "epyc", "core", "ryzen", "apple")), None)
    widest = {each.split("_")[0].rstrip("f") for each in facts.get("instructions", ())}
    kind = next((kind for kind in ("amx", "avx512", "avx2") if kind in widest), None)
    return "-".join(part for part in (family or "cpu", kind) if part)


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", re.sub(r"\((r|tm)\)", "", name.lower()))
