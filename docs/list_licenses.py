"""Prints the table of docs/licenses.md from the metadata of what is installed: `python docs/list_licenses.py`.

By hand, with Python 3.11 or newer and the extras installed: the table shows one environment, not all that there can be.
"""

import re
from importlib import metadata
from pathlib import Path

import tomllib

ROOT = Path(__file__).parent.parent


def requirements() -> dict[str, list[str]]:
    """Package names of pyproject.toml with the extras that ask for them; no extra: required."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"required": project["dependencies"], **project["optional-dependencies"]}
    found: dict[str, list[str]] = {}
    for group, lines in groups.items():
        for line in lines:
            name = re.match(r"[\w.-]+", line)[0]
            if name != project["name"]:
                found.setdefault(name, []).append(group)
    return found


def license_of(package: str) -> tuple[str, str]:
    """Version and license as the package's own metadata says it."""
    try:
        about = metadata.metadata(package)
    except metadata.PackageNotFoundError:
        return "not installed here", ""
    classifiers = [line.split(" :: ")[-1] for line in about.get_all("Classifier", []) if line.startswith("License ::")]
    stated = (about.get("License") or "").strip()
    # Some put the whole text into the field: its first line then says little, and the classifier more.
    short = stated if stated and "\n" not in stated and len(stated) < 60 else ""
    return about["Version"], about.get("License-Expression") or short or ", ".join(classifiers) or "not stated"


if __name__ == "__main__":
    print("| package | asked for by | version | license, as its metadata states it |\n|---|---|---|---|")
    for name, groups in requirements().items():
        print(f"| {name} | {', '.join(groups)} | {' | '.join(license_of(name))} |")
