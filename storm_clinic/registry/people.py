"""Names of people in the trail."""

from __future__ import annotations

import unicodedata

from storm_clinic.errors import RegistryError

_LONGEST_NAME = 100
_LONGEST_REASON = 1000


def named(by: str) -> str:
    """A name as it is recorded.

    Raises
    ------
    RegistryError
        If it is empty, longer than 100 characters, or holds what cannot be printed.
    """
    if not by.strip() or not by.isprintable() or len(by) > _LONGEST_NAME:
        raise RegistryError(f"{by!r} is no name of a person", where="by", fix="Write e.g. a.weber.")
    return by.strip()


def stated(reason: str, *, where: str) -> str:
    """A reason or plan as it is recorded.

    Raises
    ------
    RegistryError
        If it says nothing, is longer than 1,000 characters, or holds what cannot be printed.
    """
    text = " ".join(reason.split())
    if len(text) < 3 or not text.isprintable() or len(text) > _LONGEST_REASON:
        raise RegistryError(
            "says nothing that could be kept", where=where, fix="Write a sentence of your own."
        )
    return text


def same_person(one: str, other: str) -> bool:
    """Whether two names are written alike, but for case, spaces and Unicode form."""
    return _plain(one) == _plain(other)


def roles_of(by: str, *, trained_by: str, locked_by: str) -> tuple[str, ...]:
    """What somebody did with a model that bars them from approving or rejecting it."""
    roles = (("trained", trained_by), ("locked", locked_by))
    return tuple(done for done, who in roles if same_person(who, by))


def _plain(name: str) -> str:
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())
