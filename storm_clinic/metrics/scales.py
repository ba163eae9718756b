"""Scales on which an estimate is nearer to normal, and so its interval nearer to its level."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from storm_clinic.errors import StatisticsError

Scale = Literal["identity", "log", "logit", "complement"]


@dataclass(frozen=True)
class _Transform:
    name: str
    forward: Callable[[float], float]
    slope: Callable[[float], float]
    back: Callable[[float], float]
    inside: Callable[[float], bool]


def _expit(x: float) -> float:
    return 0.5 * (1 + math.tanh(x / 2))


_TRANSFORMS: dict[Scale, _Transform] = {
    "log": _Transform("the log scale", math.log, lambda v: 1 / v, math.exp, lambda v: v > 0),
    "logit": _Transform(
        "the logit scale",
        lambda v: math.log(v / (1 - v)),
        lambda v: 1 / (v * (1 - v)),
        _expit,
        lambda v: 0 < v < 1,
    ),
    "complement": _Transform(
        "the scale of log(1 - value)",
        lambda v: math.log1p(-v),
        lambda v: -1 / (1 - v),
        lambda x: -math.expm1(x),
        lambda v: v < 1,
    ),
}


def onto(value: float, scale: Scale) -> tuple[float, float]:
    """The value on a scale, and the size of the scale's slope there (its error's factor).

    Raises
    ------
    StatisticsError
        If the value lies at or beyond the edge of the scale.
    """
    transform = _TRANSFORMS.get(scale)
    if transform is None:
        return value, 1.0
    if not transform.inside(value):
        raise StatisticsError(f"a value of {value:g} is at the edge of {transform.name}")
    return transform.forward(value), abs(transform.slope(value))


def back(x: float, scale: Scale) -> float:
    """From a scale to the value's own."""
    transform = _TRANSFORMS.get(scale)
    return x if transform is None else transform.back(x)


def name_of(scale: Scale) -> str:
    """In words; the value's own scale is "its own scale"."""
    transform = _TRANSFORMS.get(scale)
    return "its own scale" if transform is None else transform.name


def wald(value: float, reach: float, scale: Scale) -> tuple[float, float, str]:
    """Ends of an interval symmetric on a scale, and the scale's name ("" for the value's own).

    Parameters
    ----------
    value : float
        The estimate.
    reach : float
        Half the width on the value's own scale: a quantile times the standard error.
    scale : {"identity", "log", "logit", "complement"}
        A value at the edge of the scale (an AUC of exactly 1) has the symmetric interval.
    """
    transform = _TRANSFORMS.get(scale)
    if transform is None or not transform.inside(value):
        return value - reach, value + reach, ""
    center, half = transform.forward(value), reach * abs(transform.slope(value))
    ends = (transform.back(center - half), transform.back(center + half))
    return min(ends), max(ends), transform.name
