"""What licences of encoders and data allow: a table, and how a name finds its row.

Readings of published terms, not legal advice: "ask" wherever a text leaves room. A licence travels
as text (feature contract, feature file, manifest, card); this table gives it a meaning.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Right = Literal["derivatives", "commercial", "deployment", "redistribution"]
Answer = Literal["yes", "no", "ask"]

RIGHTS: tuple[Right, ...] = get_args(Right)
NOT_STATED = "not stated"
IN_WORDS: dict[Right, str] = {
    "derivatives": "training models on its outputs",
    "commercial": "commercial use",
    "deployment": "deployed or clinical use",
    "redistribution": "passing on models made with it",
}
_BRIEF: dict[Right, str] = {
    "derivatives": "train",
    "commercial": "sell",
    "deployment": "deploy",
    "redistribution": "pass on",
}
_STRICTEST: tuple[Answer, ...] = ("no", "ask", "yes")
_ALSO = " AND "  # as in SPDX expressions: all of them apply


@dataclass(frozen=True)
class LicenceTerms:
    """One licence as we read it.

    Attributes
    ----------
    identifier : str
        Of SPDX; our own for terms that SPDX does not list (``LicenseRef-...``).
    derivatives : "yes", "no" or "ask"
        Whether models may be trained on the outputs of what is licensed (or on the data).
    commercial : "yes", "no" or "ask"
    deployment : "yes", "no" or "ask"
        Any use in running work or on patients, paid or not.
    redistribution : "yes", "no" or "ask"
        Whether what was derived may be passed on.
    source : str
        What the reading rests on.
    names : tuple of str
        How else it is written.
    """

    identifier: str
    derivatives: Answer
    commercial: Answer
    deployment: Answer
    redistribution: Answer
    source: str
    names: tuple[str, ...] = ()

    def allows(self, right: Right) -> Answer:
        """What the licence says to one right."""
        answer: Answer = getattr(self, right)
        return answer

    @property
    def is_known(self) -> bool:
        """Whether this is a reading, and not the lack of one."""
        return self.identifier != NOT_STATED

    def in_words(self) -> str:
        """``training models on its outputs: ask; commercial use: no; ...``."""
        return "; ".join(f"{IN_WORDS[right]}: {self.allows(right)}" for right in RIGHTS)

    def brief(self) -> str:
        """``train ask, sell no, deploy no, pass on no``, for a column of a table."""
        return ", ".join(f"{_BRIEF[right]} {self.allows(right)}" for right in RIGHTS)


_PERMISSIVE: tuple[Answer, Answer, Answer, Answer] = ("yes", "yes", "yes", "yes")
_NON_COMMERCIAL: tuple[Answer, Answer, Answer, Answer] = ("ask", "no", "ask", "ask")
_TEXT = "text of the licence"

LICENCES: tuple[LicenceTerms, ...] = (
    LicenceTerms("Apache-2.0", *_PERMISSIVE, _TEXT),
    LicenceTerms("MIT", *_PERMISSIVE, _TEXT),
    LicenceTerms("BSD-3-Clause", *_PERMISSIVE, _TEXT),
    LicenceTerms("CC0-1.0", *_PERMISSIVE, _TEXT, ("CC0",)),
    LicenceTerms("CC-BY-4.0", *_PERMISSIVE, _TEXT),
    LicenceTerms("CC-BY-SA-4.0", "yes", "yes", "yes", "ask", f"{_TEXT}; passed on alike only"),
    LicenceTerms(
        "CC-BY-NC-4.0",
        "yes",
        "no",
        "ask",
        "ask",
        f"{_TEXT}; whether care at a hospital is non-commercial it leaves open",
    ),
    LicenceTerms(
        "CC-BY-NC-ND-4.0",
        "ask",
        "no",
        "no",
        "no",
        "cards of Mahmood Lab, Paige and Bioptimus: non-commercial academic research only; models "
        "trained on outputs count as derivatives, and what is derived may not be passed on",
    ),
    LicenceTerms(
        "AGPL-3.0-only",
        "yes",
        "yes",
        "ask",
        "ask",
        f"{_TEXT}; whoever is served or given what is derived may ask for its source",
        ("AGPL-3.0", "AGPLv3"),
    ),
    LicenceTerms(
        "GPL-3.0-only",
        "yes",
        "yes",
        "yes",
        "ask",
        f"{_TEXT}; passed on alike only",
        ("GPL-3.0", "GPLv3"),
    ),
    LicenceTerms(
        "LicenseRef-CTransPath",
        "ask",
        "no",
        "no",
        "ask",
        "authors' repository: GPL-3.0, for non-commercial academic use",
        ("GPL-3.0, non-commercial academic use",),
    ),
    LicenceTerms(
        "LicenseRef-Virchow",
        "yes",
        "ask",
        "ask",
        "ask",
        "Apache-2.0 by its file; the hub asks for further terms and for research use",
        ("Apache-2.0 with additional terms",),
    ),
    LicenceTerms(
        "LicenseRef-Prov-GigaPath",
        "yes",
        "no",
        "no",
        "ask",
        "Apache-2.0 by its file; the card declares any deployed use, paid or not, out of scope",
        ("Apache-2.0, research use only",),
    ),
    LicenceTerms(
        "LicenseRef-Owkin-NC",
        *_NON_COMMERCIAL,
        "Owkin's licence: non-commercial; it covers results as well",
        ("Owkin non-commercial",),
    ),
    LicenceTerms(
        "LicenseRef-Kaiko-NC",
        *_NON_COMMERCIAL,
        "Kaiko's licence: non-commercial",
        ("Kaiko non-commercial",),
    ),
    LicenceTerms(
        "LicenseRef-Lunit-NC",
        *_NON_COMMERCIAL,
        "Lunit's public licence: non-commercial",
        ("Lunit public licence, non-commercial",),
    ),
)
UNKNOWN = LicenceTerms(NOT_STATED, "ask", "ask", "ask", "ask", "no terms are on record")


def _key(text: str) -> str:
    """``CC BY-NC-ND 4.0`` and ``cc-by-nc-nd-4.0`` are the same name."""
    return re.sub(r"[^a-z0-9]+", "-", text.casefold()).strip("-")


_BY_NAME = {_key(name): terms for terms in LICENCES for name in (terms.identifier, *terms.names)}


def terms_of(licence: str | None) -> LicenceTerms:
    """What a licence allows; `UNKNOWN`, which is "ask" throughout, where the text is not known.

    Parameters
    ----------
    licence : str or None
        An identifier or name of the table; of several joined by ``AND``, the strictest answers.
    """
    parts = [part for part in (licence or "").split(_ALSO) if part.strip()]
    found = [_BY_NAME.get(_key(part), UNKNOWN) for part in parts] or [UNKNOWN]
    if len(found) == 1:
        return found[0]
    # Of some known and some unknown parts the known ones still forbid.
    known = any(terms.is_known for terms in found)
    return LicenceTerms(
        identifier=_ALSO.join(terms.identifier for terms in found) if known else NOT_STATED,
        derivatives=_strictest(found, "derivatives"),
        commercial=_strictest(found, "commercial"),
        deployment=_strictest(found, "deployment"),
        redistribution=_strictest(found, "redistribution"),
        source="; ".join(dict.fromkeys(terms.source for terms in found)),
    )


def _strictest(found: Sequence[LicenceTerms], right: Right) -> Answer:
    answers = {terms.allows(right) for terms in found}
    return next(answer for answer in _STRICTEST if answer in answers)


def joined(*licences: str | None) -> str | None:
    """Licences that apply together, each once; None where none of them is stated."""
    parts = [p for text in licences for p in (text or NOT_STATED).split(_ALSO)]
    once = list(dict.fromkeys(parts))
    return None if once == [NOT_STATED] else _ALSO.join(once)
