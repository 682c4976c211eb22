"""How a figure is worded for a person: units, digits, and the sign for what was not measured."""

from __future__ import annotations

import math

EN_DASH = "\u2013"
MISSING = EN_DASH
_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB")


def significant(value: float, digits: int = 3) -> str:
    """Word a number with so many significant digits, whole numbers whole, no powers of ten: 0.0123, 1.23, 12346."""
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else ("∞" if value > 0 else "-∞")
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:.{min(decimals, 9)}f}" if decimals else f"{value:.0f}"


def percent(fraction: float | None, *, unit: bool = True) -> str:
    """Word a fraction in [0, 1] as percent with two decimals: 97.22 %."""
    if fraction is None:
        return MISSING
    return f"{100 * fraction:.2f}" + (" %" if unit else "")


def milliseconds(value: float | None, *, unit: bool = True) -> str:
    """Word a time in milliseconds with three significant digits: 1.23 ms."""
    if value is None:
        return MISSING
    return significant(value) + (" ms" if unit else "")


def byte_size(value: float | None) -> str:
    """Word a size with three significant digits in decimal units (1 MB is 1,000,000 bytes)."""
    if value is None:
        return MISSING
    if value < 1000:
        return f"{value:.0f} B"
    power = min(math.floor(math.log10(float(f"{value:.2e}")) / 3), len(_BYTE_UNITS) - 1)
    return f"{significant(value / 1000**power)} {_BYTE_UNITS[power]}"


def decibel(value: float | None) -> str:
    """Word a ratio in dB with one decimal; infinite means that nothing differed."""
    if value is None or math.isnan(value):
        return MISSING
    return "exact" if math.isinf(value) and value > 0 else f"{value:.1f} dB"


def span(low: str, high: str) -> str:
    """Word the two ends of an interval, joined by an en dash."""
    return f"{low} {EN_DASH} {high}"


def count(number: int, noun: str) -> str:
    """Word a number of things: 1 row, 2 rows, 12,000 rows."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
