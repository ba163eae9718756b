"""The encoders that are known by name: a table of facts, and those that other packages add."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from storm_clinic.encoders import cards_convolutional, cards_gated, cards_open
from storm_clinic.encoders.contract import EncoderCard
from storm_clinic.errors import EncoderError
from storm_clinic.study import did_you_mean

ENTRY_POINTS = "storm_clinic.encoders"

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


def encoder_names() -> list[str]:
    """Names of all encoders, built in or added by installed packages, sorted."""
    return sorted({*_BY_NAME, *(point.name for point in _added())})


def find_card(name: str) -> EncoderCard:
    """The facts of an encoder.

    A package adds one by an entry point of the group ``storm_clinic.encoders`` whose name is the
    encoder's and whose object is a function without arguments that returns an `EncoderCard`.

    Raises
    ------
    EncoderError
        If no encoder has that name, two packages claim it, or the function does not do that.
    """
    points = [point for point in _added() if point.name == name]
    owners = (["storm_clinic"] if name in _BY_NAME else []) + [_owner(point) for point in points]
    if len(owners) > 1:
        raise EncoderError(
            f"claimed by {' and '.join(owners)}",
            where=f"encoder {name}",
            fix="Uninstall one of them.",
        )
    if not owners:
        raise EncoderError(
            f"no encoder is called {name!r}{did_you_mean(name, encoder_names())}", where="encoder"
        )
    return _BY_NAME[name] if name in _BY_NAME else _card_from(points[0])


def _added() -> list[EntryPoint]:
    return list(entry_points(group=ENTRY_POINTS))


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


def _card_from(point: EntryPoint) -> EncoderCard:
    where = f"encoder {point.name} of {_owner(point)}"
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
    if not isinstance(card, EncoderCard) or card.name != point.name:
        raise EncoderError(
            f"its function must return an EncoderCard named {point.name!r}, returned {card!r:.80}",
            where=where,
        )
    return card
