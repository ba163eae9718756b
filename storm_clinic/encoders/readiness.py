"""Whether each encoder can run on this machine. Fetches nothing and opens no weights."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from typing import Literal

from storm_clinic.encoders.catalogue import (
    encoder_names,
    find_card,
    find_slide_card,
    slide_encoder_names,
)
from storm_clinic.encoders.contract import EncoderCard, Published, needed_modules
from storm_clinic.encoders.slide_contract import SlideEncoderCard
from storm_clinic.errors import EncoderError
from storm_clinic.licence_terms import terms_of

# Weights in fp32, once more while they are read, and what a small batch takes.
_BYTES_A_PARAMETER = 10
ReadyState = Literal["ready", "fetches", "weights", "no"]


@dataclass(frozen=True)
class EncoderReadiness:
    """Whether one encoder can run here.

    Attributes
    ----------
    name : str
    kind : "tile" or "slide"
    state : str
        ``ready``; ``fetches`` (its weights are open and would be fetched from the hub at first
        use); ``weights`` (they must be handed over, or fetched with an account that accepted the
        terms); ``no`` (something else is missing).
    reason : str
        Why it is not ready, and what to do; empty if it is.
    width : int
        Length of the embedding; 0 where the card itself cannot be loaded.
    licence : str
        Of the weights, as its authors name it.
    allows : str
        What we read it to say: ``train ask, sell no, deploy no, pass on no``.
    gated : bool
    hub_id : str or None
    """

    name: str
    kind: Literal["tile", "slide"]
    state: ReadyState
    reason: str
    width: int = 0
    licence: str = ""
    allows: str = ""
    gated: bool = False
    hub_id: str | None = None


def encoder_readiness() -> list[EncoderReadiness]:
    """One row an encoder, tile encoders first, each kind sorted by name."""
    tile = [_row(name, "tile") for name in encoder_names()]
    return tile + [_row(name, "slide") for name in slide_encoder_names()]


def _row(name: str, kind: Literal["tile", "slide"]) -> EncoderReadiness:
    try:
        card: EncoderCard | SlideEncoderCard
        card = find_card(name) if kind == "tile" else find_slide_card(name)
    except EncoderError as error:  # of another package; it must not hide the others
        return EncoderReadiness(name, kind, "no", str(error))
    state, reason = readiness(card)
    allows = terms_of(card.licence).brief()
    return EncoderReadiness(
        name, kind, state, reason, card.width, card.licence, allows, card.gated, card.hub_id
    )


def readiness(card: Published) -> tuple[ReadyState, str]:
    """Whether an encoder can run here, else why not and what to do."""
    missing = [module for module in needed_modules(card) if not _is_installed(module)]
    if missing:
        return "no", f"needs {', '.join(missing)}: {card.install}"
    short = _short_of_memory(card)
    if short:
        return "no", short
    if card.remote_code:
        return "weights", (
            f"copy https://huggingface.co/{card.hub_id} here and give its folder with --weights; "
            "its Python code runs only with your consent (STORM_CLINIC_REMOTE_CODE)"
        )
    return _weights_state(card)


def _weights_state(card: Published) -> tuple[ReadyState, str]:
    if card.packaged is not None:
        try:
            path = card.packaged()
        except EncoderError as error:
            return "no", str(error)
        return ("ready", "") if path.is_file() else ("no", "its package has lost the weights")
    if card.hub_id is None:
        return "weights", f"give {card.home or 'its weights'} with --weights"
    if _is_cached(card.hub_id, card.files):
        return "ready", ""
    if card.gated:
        return "weights", (
            f"accept the terms at https://huggingface.co/{card.hub_id} and log in with "
            "'hf auth login', or give the weights with --weights"
        )
    if _is_offline():
        return "weights", f"HF_HUB_OFFLINE is set; give a copy of {card.hub_id} with --weights"
    return "fetches", f"weights are fetched from {card.hub_id} at first use, or given by --weights"


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _is_cached(hub_id: str, files: tuple[str, ...]) -> bool:
    from huggingface_hub import try_to_load_from_cache

    # The library answers with a path, None, or a mark for "known not to exist there".
    return any(isinstance(try_to_load_from_cache(hub_id, name), str) for name in files)


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _short_of_memory(card: Published) -> str:
    """Why memory does not suffice, or nothing; where the machine does not tell, it does."""
    wanted = card.parameters * 1e6 * _BYTES_A_PARAMETER
    have = _memory_bytes()
    if have is None or wanted <= have:
        return ""
    return f"needs about {wanted / 2**30:.0f} GiB of memory, this machine has {have / 2**30:.0f}"


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
