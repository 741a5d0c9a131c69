"""The warm-up's choice of a setting: one name after another, each at its fastest value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

# A value this much slower than the best at first sight is not tried again.
_HOPELESS = 1.25


def best_setting(axes: Mapping[str, Sequence[Any]], seconds: Callable[[Mapping[str, Any]], float]) -> Mapping[str, Any]:
    """Return the fastest value for each of the axes' names, found in their order.

    Starts from each one's first value. What comes close is timed a second time and the better time counts, so that a
    machine that is slow for a moment does not choose.
    """
    setting = {name: values[0] for name, values in axes.items()}
    for name, values in axes.items():
        best = {value: seconds({**setting, name: value}) for value in values}
        close = [value for value in values if best[value] < _HOPELESS * min(best.values())]
        for value in close if len(close) > 1 else ():
            best[value] = min(best[value], seconds({**setting, name: value}))
        setting[name] = min(values, key=lambda value: best[value])
    return setting
