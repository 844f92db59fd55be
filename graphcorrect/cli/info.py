"""`graphcorrect info`: versions, devices, and what serves each operation."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import re

import torch

from graphcorrect import __version__
from graphcorrect.backends import explain_backends
from graphcorrect.cli.console import in_words

NOT_SHOWN = ("dev", "docs", "examples", "integrations")  # extras of those who work on the package


@in_words()
def run(args: argparse.Namespace) -> None:
    """The command."""
    for line in lines():
        print(line)


def lines() -> list[str]:
    """What it prints."""
    found = [
        f"graphcorrect {__version__}, PyTorch {torch.__version__}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}",
        "",
        "optional packages:",
    ]
    packages = optional_packages()
    width = max(map(len, packages), default=0)
    for name in packages:
        said = version_of(name) or f"missing: pip install {name}"
        found.append(f"  {name:<{width}}  {said}")
    found += ["", "devices:", f"  cpu     {torch.get_num_threads()} threads"]
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        found.append(f"  cuda:{number}  {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    places = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for place in places:
        found += ["", f"what serves each operation, {explain_backends(torch.empty(4096, 256, device=place))}"]
    return found


def optional_packages() -> list[str]:
    """Packages that are used where they are installed, as the metadata has them."""
    try:
        required = importlib.metadata.requires("graphcorrect") or []
    except importlib.metadata.PackageNotFoundError:  # run from a clone
        return []
    matches = (re.match(r"([\w.-]+)[^;]*;.*extra == ['\"]([\w-]+)['\"]", line) for line in required)
    return list(dict.fromkeys(match[1] for match in matches if match and match[2] not in NOT_SHOWN))


def version_of(package: str) -> str | None:
    """The installed version; None if there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
