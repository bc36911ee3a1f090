"""Paired times: every candidate in turn, again and again, in the same minutes, on the same threads."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import pandas as pd

Candidate = Callable[[], object]


def paired(candidates: Mapping[str, Candidate], *, rounds: int, against: str = "") -> pd.DataFrame:
    """Median milliseconds of each candidate, and the median of its ratio to ``against`` (the first one) round by round.

    Every candidate is called once before the clock runs. Within a round each is called once, in turn.
    """
    against = against or next(iter(candidates))
    for call in candidates.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            began = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - began))
    rows = []
    for name, each in times.items():
        ratios = [mine / other for mine, other in zip(each, times[against], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4) if rounds > 1 else (ratios[0],) * 3
        row = {"what": name, "median_ms": statistics.median(each), "ratio": statistics.median(ratios)}
        rows.append(row | {"ratio_low": low, "ratio_high": high, "against": against})
    return pd.DataFrame(rows)
