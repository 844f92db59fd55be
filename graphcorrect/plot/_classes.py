"""What a class is called and how it looks, the same in every picture."""

from collections.abc import Sequence

# Ten lines that can be told apart, then the same ten in another style.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C564B", "#7F3C8D", "#7A8B00")
_STYLES = ("-", "--", ":", "-.")


def names_of(class_names: Sequence[str] | None, count: int) -> list[str]:
    if class_names is not None and len(class_names) != count:
        raise ValueError(f"expected `class_names` with {count} names, one for each class, got {len(class_names)}")
    return [str(number) for number in range(count)] if class_names is None else list(class_names)


def style_of(number: int) -> tuple[str, str]:
    """Color and line style of a class."""
    return COLORS[number % len(COLORS)], _STYLES[number // len(COLORS) % len(_STYLES)]
