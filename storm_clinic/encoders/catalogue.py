"""The encoders that are known by name: a table of facts, and those that other packages add."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from storm_clinic.encoders import cards_convolutional, cards_gated, cards_open
from storm_clinic.encoders.cards_slide import SLIDE_CARDS
from storm_clinic.encoders.contract import EncoderCard
from storm_clinic.encoders.slide_contract import SlideEncoderCard
from storm_clinic.errors import EncoderError
from storm_clinic.strict_yaml import did_you_mean

ENTRY_POINTS = "storm_clinic.encoders"
SLIDE_ENTRY_POINTS = "storm_clinic.slide_encoders"

_CARDS = (
    *cards_convolutional.BASELINES,
    *cards_convolutional.CTRANSPATH,
    *cards_gated.BIOPTIMUS,
    *cards_gated.MAHMOOD_LAB,
    *cards_gated.PAIGE,
    *cards_gated.GIGAPATH,
    *cards_open.OWKIN,
    *cards_open.KAIKO,
    *cards_open.HISTAI,
    *cards_open.LUNIT_DINO,
    *cards_open.GPFM,
)
_BY_NAME = {card.name: card for card in _CARDS}
_SLIDE_BY_NAME = {card.name: card for card in SLIDE_CARDS}
_Card = TypeVar("_Card", EncoderCard, SlideEncoderCard)


def encoder_names() -> list[str]:
    """Names of all tile encoders, built in or added by installed packages, sorted."""
    return sorted({*_BY_NAME, *(point.name for point in _added(ENTRY_POINTS))})


def slide_encoder_names() -> list[str]:
    """Names of all slide encoders, built in or added by installed packages, sorted."""
    return sorted({*_SLIDE_BY_NAME, *(point.name for point in _added(SLIDE_ENTRY_POINTS))})


def find_card(name: str) -> EncoderCard:
    """The facts of a tile encoder.

    A package adds one by an entry point of the group ``storm_clinic.encoders`` whose name is the
    encoder's and whose object is a function without arguments that returns an `EncoderCard`.

    Raises
    ------
    EncoderError
        If no encoder has that name, two packages claim it, or the function does not do that.
    """
    return _find(name, _BY_NAME, ENTRY_POINTS, EncoderCard)


def find_slide_card(name: str) -> SlideEncoderCard:
    """The facts of a slide encoder.

    A package adds one by an entry point of the group ``storm_clinic.slide_encoders``, as for
    `find_card`; its function returns a `SlideEncoderCard`.

    Raises
    ------
    EncoderError
        If no slide encoder has that name, two packages claim it, or the function does not do that.
    """
    return _find(name, _SLIDE_BY_NAME, SLIDE_ENTRY_POINTS, SlideEncoderCard)


def _find(name: str, built_in: Mapping[str, _Card], group: str, kind: type[_Card]) -> _Card:
    added: list[EntryPoint] = _added(group)
    points = [point for point in added if point.name == name]
    owners = (["storm_clinic"] if name in built_in else []) + [_owner(point) for point in points]
    what = "encoder" if kind is EncoderCard else "slide encoder"
    if len(owners) > 1:
        raise EncoderError(
            f"claimed by {' and '.join(owners)}",
            where=f"{what} {name}",
            fix="Uninstall one of them.",
        )
    if not owners:
        known = sorted({*built_in, *(point.name for point in added)})
        raise EncoderError(
            f"no {what} is called {name!r}{did_you_mean(name, known)}",
            where=what,
            fix="One that was trained here is found in the folder of its weights: --weights FOLDER."
            if kind is EncoderCard
            else None,
        )
    return built_in[name] if name in built_in else _card_from(points[0], what, kind)


def _added(group: str) -> list[EntryPoint]:
    return list(entry_points(group=group))


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


def _card_from(point: EntryPoint, what: str, kind: type[_Card]) -> _Card:
    where = f"{what} {point.name} of {_owner(point)}"
    try:
        card = point.load()()
    except EncoderError:
        raise
    except Exception as error:  # a stranger's code may raise anything
        raise EncoderError(
            f"cannot be loaded: {type(error).__name__}: {error}",
            where=where,
            fix="Repair or uninstall that package.",
        ) from error
    if not isinstance(card, kind) or card.name != point.name:
        article = "an" if kind is EncoderCard else "a"
        raise EncoderError(
            f"its function must return {article} {kind.__name__} named {point.name!r}, "
            f"returned {card!r:.80}",
            where=where,
        )
    return card
