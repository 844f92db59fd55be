"""Numbers, and where they are from, as the tables of the documentation show them."""

import statistics
from typing import Any


def spread(values: list[float], sign: str = "", digits: int = 1) -> str:
    """Mean, and deviation where there is more than one; nothing of nothing."""
    if not values:
        return ""
    mean = f"{statistics.mean(values):{sign}.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def origin(record: dict[str, Any]) -> str:
    """The processor, torch, the day and the commit of a record."""
    device = record["device"]
    return f"{device['cpu']}, torch {device['torch']}; {record['date']}, commit {record['commit']}."
