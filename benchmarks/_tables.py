"""Numbers as the tables of the documentation show them."""

import statistics


def spread(values: list[float], sign: str = "", digits: int = 1) -> str:
    """Mean, and deviation where there is more than one; nothing of nothing."""
    if not values:
        return ""
    mean = f"{statistics.mean(values):{sign}.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean
