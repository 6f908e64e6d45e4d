# SPDX-License-Identifier: Apache-2.0
"""How numbers are written for people: the same in terminals, Markdown, HTML and plots."""

from __future__ import annotations

import math

_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def percent(share: float, decimals: int = 2) -> str:
    """Return a share in [0, 1] as a percentage, e.g. `84.43 %`."""
    return f"{100 * share:.{decimals}f} %"


def with_error(value: float, stderr: float) -> str:
    """Return a value and its standard error to the same decimal place, e.g. `17.03 ± 0.41`.

    Numbers from a thousand on lose their decimals and those from a million on become powers of
    ten, because a broken model's perplexity must still fit its column. A standard error that is
    not finite (one context window has none) is written `n/a`.
    """
    if not math.isfinite(value):
        return str(value)
    spec = _spec(value)
    error = format(stderr, spec) if math.isfinite(stderr) else "n/a"
    return f"{value:{spec}} ± {error}"


def increase(share: float, stderr: float | None = None) -> str:
    """Return a relative change as a signed percentage, e.g. `+0.71 ± 0.20 %`."""
    value = 100 * share
    if not math.isfinite(value):
        return str(value)
    text = format(value, f"+{_spec(value)}")
    if stderr is None:
        return f"{text} %"
    error = format(100 * stderr, _spec(value)) if math.isfinite(stderr) else "n/a"
    return f"{text} ± {error} %"


def compact_count(count: float) -> str:
    """Return a count to three significant digits, e.g. `0`, `12.3k`, `1.05M`."""
    for unit, suffix in _UNITS:
        if count >= 0.9995 * unit:  # 999 950 is 1M: rounding must not print 1e+03k
            return f"{count / unit:.3g}{suffix}"
    return f"{count:.0f}"


def compact_number(value: float) -> str:
    """Return a setting such as lambda or a threshold to four significant digits."""
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """Return a time span in the two units that say most, e.g. `4 min 10 s`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def listing(items: list[str]) -> str:
    """Return items as words: `a`, `a and b`, `a, b and c`."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def _spec(value: float) -> str:
    size = abs(value)
    if size < 1e3:
        return ".2f"
    return ".0f" if size < 1e6 else ".1e"
