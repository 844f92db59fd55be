"""Prints the Python blocks of a Markdown file as one script: `python tests/readme_code.py README.md`."""

import re
import sys
from pathlib import Path


def python_blocks(path: Path) -> list[str]:
    """The fenced Python blocks of a file, in order."""
    return re.findall(r"^```python\n(.*?)^```$", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


if __name__ == "__main__":
    print("\n".join(python_blocks(Path(sys.argv[1]))))
