"""What the figures of measurements share: plain axes, and a picture that tells which results it shows."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

IMAGES = Path(__file__).parents[1] / "images"


def plain(axis: Axes, lines: str = "both", which: str = "major") -> None:
    """Leave out the frame's upper and right side, and draw a faint grid below the data."""
    axis.grid(axis=lines, which=which, color="0.92", lw=0.7)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def save(figure: Figure, name: str, sources: Sequence[Path]) -> None:
    """Write docs/images/NAME.png with the checksum of its JSON files, so that a test sees when it is out of date."""
    checksum = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    figure.savefig(IMAGES / f"{name}.png", dpi=110, metadata={"Source": checksum})
