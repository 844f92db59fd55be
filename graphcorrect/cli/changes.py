"""What a correction changed in a folder of masks: counts of each image, two CSV files, and a page to look at."""

from __future__ import annotations

import base64
import csv
import html
import io
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from graphcorrect.files.stored_masks import voc_colors

THUMBNAIL = 240  # pixels of the longer side
Counts = dict[tuple[int, ...], int]  # pixels for each combination of classes


class Changes(NamedTuple):
    """Changes of one image."""

    name: str
    pixels: int  # that have a prediction
    flows: Counts  # for each pair (class before, class after) that differs

    @property
    def changed(self) -> int:
        """Pixels that changed."""
        return sum(self.flows.values())

    @property
    def share(self) -> float:
        """Their share of those with a prediction."""
        return self.changed / max(1, self.pixels)


def count_changes(name: str, before: Tensor, after: Tensor, known: Tensor) -> Changes:
    """The changes from one mask (H, W) to the other where `known` (H, W)."""
    is_changed = known & (before != after)
    flows = Counter(counts_of(before[is_changed], after[is_changed]))
    return Changes(name, int(known.sum()), dict(flows.most_common()))


def counts_of(*labels: Tensor) -> Counts:
    """How many pixels have each combination of labels, each (N,)."""
    found, counts = torch.unique(torch.stack(labels), dim=1, return_counts=True)
    return {tuple(each): count for each, count in zip(found.T.tolist(), counts.tolist(), strict=True)}


def as_rows(counts: Counts) -> list[list[int]]:
    """Counts as JSON holds them: the classes, then the pixels."""
    return [[*classes, pixels] for classes, pixels in counts.items()]


def counts_in(rows: list[list[int]]) -> Counts:
    """The same read again."""
    return {tuple(map(int, classes)): int(pixels) for *classes, pixels in rows}


def changes_csv(all_changes: Iterable[Changes]) -> str:
    """One line an image."""
    rows = ((entry.name, entry.pixels, entry.changed, f"{entry.share:.6f}") for entry in all_changes)
    return as_csv(("image", "pixels", "changed", "share"), rows)


def flows_csv(all_changes: Iterable[Changes], class_names: list[str]) -> str:
    """One line for each image and pair of classes; `share` is of the image's pixels."""
    rows = (
        (entry.name, before, class_names[before], after, class_names[after], count, f"{count / entry.pixels:.6f}")
        for entry in all_changes
        for (before, after), count in entry.flows.items()
    )
    return as_csv(("image", "from", "from_name", "to", "to_name", "pixels", "share"), rows)


class Example(NamedTuple):
    """One image on the page: masks (H, W), and the picture (3, H, W) uint8 if there is one."""

    changes: Changes
    image: Tensor | None
    before: Tensor
    after: Tensor


def changes_page(
    all_changes: list[Changes],
    examples: Iterable[Example],
    class_names: list[str],
    score: str = "",
    title: str = "What changed",
) -> str:
    """A page that needs no other file: totals, the most frequent changes, and thumbnails of the given examples.

    `score` is a line on what is known of their truth.
    """
    pixels = sum(entry.pixels for entry in all_changes)
    flows: Counter[tuple[int, ...]] = Counter()
    for entry in all_changes:
        flows.update(entry.flows)
    changed = sum(flows.values())
    cards = [_card(example) for example in examples]
    rows = "".join(
        f"<tr><td>{_swatch(before, class_names)}</td><td>{_swatch(after, class_names)}</td>"
        f"<td>{count:,}</td><td>{100 * count / max(1, changed):.1f} %</td></tr>"
        for (before, after), count in flows.most_common(20)
    )
    return _PAGE.format(
        title=html.escape(title),
        images=f"{len(all_changes):,}",
        touched=f"{sum(entry.changed > 0 for entry in all_changes):,}",
        changed=f"{changed:,}",
        share=f"{100 * changed / max(1, pixels):.2f}",
        score=f"<p>{html.escape(score[:1].upper() + score[1:])}.</p>" if score else "",
        rows=rows or '<tr><td colspan="4">none</td></tr>',
        shown=f"{len(cards):,}",
        cards="\n".join(cards),
    )


def as_csv(header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    """A table with its header as the text of a CSV file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _card(example: Example) -> str:
    name = html.escape(example.changes.name)
    colors = np.array(voc_colors(), dtype=np.uint8)
    before, after = (labels.numpy().astype(np.uint8) for labels in (example.before, example.after))
    if example.image is None:
        faint = np.full((*before.shape, 3), 235, dtype=np.uint8)
    else:
        grey = example.image.float().mean(0, keepdim=True).permute(1, 2, 0).numpy()
        faint = np.repeat((200 + grey * 55 / 255).astype(np.uint8), 3, 2)
    changed = np.where((before != after)[..., None], colors[after], faint)
    pictures = [] if example.image is None else [("image", example.image.permute(1, 2, 0).numpy(), "JPEG")]
    pictures += [("before", colors[before], "PNG"), ("after", colors[after], "PNG"), ("changed to", changed, "PNG")]
    figures = "".join(
        f'<figure><img src="{_data_url(picture, form)}" alt="{title}: {name}"><figcaption>{title}</figcaption></figure>'
        for title, picture, form in pictures
    )
    count = f"{example.changes.changed:,} px, {100 * example.changes.share:.2f} %"
    return f"<section><h3>{name} <small>{count}</small></h3><div>{figures}</div></section>"


def _data_url(picture: NDArray[np.uint8], form: str) -> str:
    image = Image.fromarray(picture)
    scale = min(1.0, THUMBNAIL / max(image.size))
    size = [max(1, round(side * scale)) for side in image.size]
    # Averaging two classes' colors would show a third one's.
    image = image.resize(size, Image.Resampling.NEAREST if form == "PNG" else Image.Resampling.BOX)
    content = io.BytesIO()
    image.save(content, form, **({"quality": 80} if form == "JPEG" else {"optimize": True}))
    return f"data:image/{form.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"


def _swatch(label: int, class_names: list[str]) -> str:
    color = "#{:02x}{:02x}{:02x}".format(*voc_colors()[label])
    return f'<i style="background:{color}"></i>{html.escape(class_names[label])}'


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --line: light-dark(#ddd, #444); --faint: light-dark(#666, #aaa); }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }}
h3 {{ margin: 0 0 .4rem; font-size: 1rem; overflow-wrap: anywhere; }}
small, figcaption {{ color: var(--faint); font-weight: normal; font-size: .8rem; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .2rem .9rem .2rem 0; text-align: left; border-bottom: 1px solid var(--line); }}
th:nth-child(n+3), td:nth-child(n+3) {{ text-align: right; font-variant-numeric: tabular-nums; }}
i {{ display: inline-block; width: .8em; height: .8em; margin-right: .4em; border: 1px solid var(--line); }}
section {{ border-top: 1px solid var(--line); padding: 1rem 0; }}
section div {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .6rem; }}
figure {{ margin: 0; }}
img {{ width: 100%; image-rendering: pixelated; display: block; border-radius: 3px; }}
</style>
<h1>{title}</h1>
<p>{changed} pixels, {share} % of those predicted, in {touched} of {images} images.</p>{score}
<h2>From which class to which</h2>
<table><tr><th>before</th><th>after</th><th>pixels</th><th>of all changes</th></tr>{rows}</table>
<h2>The {shown} images that changed most</h2>
{cards}
</html>
"""
