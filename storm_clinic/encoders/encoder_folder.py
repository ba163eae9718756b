"""An encoder that was trained on here, as a folder: its weights, and whose network they belong to.

The network's shape is never in the folder: it is that of a card of the catalogue, or of an
installed package, so that no file can ask for another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from storm_clinic.encoders.catalogue import encoder_names, find_card
from storm_clinic.encoders.contract import EncoderCard, Pooling, State
from storm_clinic.encoders.weights import read_weights, weights_digest
from storm_clinic.errors import EncoderError, StormClinicError
from storm_clinic.files import atomic_write, digest_value, parse_json, safe_name, write_json

FORMAT, FORMAT_VERSION = "storm_clinic/encoder", 1
ENCODER_FILE, WEIGHTS_FILE = "encoder.json", "model.safetensors"
_POOLINGS: tuple[Pooling, ...] = ("cls", "cls+mean", "pooled")


@dataclass(frozen=True, kw_only=True)
class TrainedFrom:
    """What an encoder was before it was trained on.

    Attributes
    ----------
    encoder : str
        Its name in the catalogue.
    digest : str
        Of the weights that it started from.
    """

    encoder: str
    digest: str


def write_encoder(
    folder: Path,
    name: str,
    card: EncoderCard,
    start: TrainedFrom,
    network: torch.nn.Module,
    *,
    trained_on: Sequence[Mapping[str, str]],
) -> str:
    """Write an encoder for `load_encoder`, ``encoder.json`` last: a folder with one is whole.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    name : str
        Of the encoder, and of the feature stores that it makes.
    card : EncoderCard
        What it wants to see and gives; `read_encoder_card` takes pooling and width from here, all
        else from the catalogue's card of ``start.encoder``.
    start : TrainedFrom
        What it was before.
    network : nn.Module
        With its weights, of that card.
    trained_on : sequence of mappings
        What it has seen, for those who must leave that out; `read_trained_on` gives it back.

    Returns
    -------
    str
        Digest of the weights.

    Raises
    ------
    EncoderError
        If the name is one of the catalogue, the start's is not or is built by transformers, or a
        weight is not finite.
    """
    safe_name(name, what="encoder")
    _start_card(start, folder)
    if name in encoder_names():
        raise EncoderError("is the name of an encoder of the catalogue", where=f"encoder {name}")
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    odd = [key for key, value in state.items() if not torch.isfinite(value).all()]
    if odd:
        raise EncoderError(f"weights are not finite, such as {odd[0]}", where=folder)
    digest = weights_digest(state)
    (folder / ENCODER_FILE).unlink(missing_ok=True)
    with atomic_write(folder / WEIGHTS_FILE) as part:
        part.write_bytes(save(state))  # `save_file` would let nobody else read it
    facts = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": name,
        "trained_from": {"encoder": start.encoder, "digest": start.digest},
        "pooling": card.pooling,
        "width": card.width,
        "weights_digest": digest,
        "trained_on": [dict(one) for one in trained_on],
    }
    write_json(folder / ENCODER_FILE, {**facts, "digest": digest_value(facts)})
    return digest


def encoder_folder(weights: Path | None) -> Path | None:
    """The folder that `write_encoder` wrote, from what names weights: itself or a file in it."""
    if weights is None:
        return None
    folder = weights.parent if weights.is_file() else weights
    return folder if (folder / ENCODER_FILE).is_file() else None


def copy_encoder(source: Path, target: Path) -> None:
    """Copy what `write_encoder` wrote; weights that were changed since are refused.

    Raises
    ------
    EncoderError
        If the source is damaged.
    """
    _unchanged(source, read_weights_digest(source), read_weights(source / WEIGHTS_FILE))
    (target / ENCODER_FILE).unlink(missing_ok=True)
    for name in (WEIGHTS_FILE, ENCODER_FILE):
        with atomic_write(target / name) as part:
            part.write_bytes((source / name).read_bytes())


def read_encoder_card(folder: Path) -> EncoderCard:
    """The card of what `write_encoder` wrote; its weights are read, and checked, when it is loaded.

    Raises
    ------
    EncoderError
        If the file is damaged or of another version, or the encoder that it was trained from is
        unknown here.
    """
    facts = _read(folder)
    try:
        name = str(facts["name"])
        pooling, width, digest = facts["pooling"], facts["width"], str(facts["weights_digest"])
        if pooling not in _POOLINGS or type(width) is not int:
            raise ValueError(f"pooling {pooling!r}, width {width!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise EncoderError(
            f"is no encoder: {error!r}", where=folder / ENCODER_FILE, fix=_AGAIN
        ) from error
    start = read_start(folder)
    before = _start_card(start, folder)
    try:
        if name in encoder_names():
            raise EncoderError("is the name of an encoder of the catalogue", where=name)
        return replace(
            before,
            name=name,
            pooling=pooling,
            width=width,
            hub_id=None,
            gated=False,
            files=(WEIGHTS_FILE,),
            home=f"the folder that it was written to, trained on from {start.encoder}",
            packaged=partial(Path, folder, WEIGHTS_FILE),
            convert=partial(_unchanged, folder, digest),
            notes=f"Trained on from {start.encoder}, weights {start.digest[:12]}.",
        )
    except StormClinicError as error:
        raise EncoderError(
            f"is no encoder: {error}", where=folder / ENCODER_FILE, fix=_AGAIN
        ) from error


def read_weights_digest(folder: Path) -> str:
    """The digest that `write_encoder` returned, as the file states it; see `read_encoder_card`."""
    return str(_read(folder).get("weights_digest"))


def read_trained_on(folder: Path) -> Sequence[Mapping[str, str]]:
    """What an encoder has seen, as it was given to `write_encoder`.

    Raises
    ------
    EncoderError
        If the file is damaged or does not say.
    """
    found = _read(folder).get("trained_on")
    if not isinstance(found, list) or not found:
        raise EncoderError(
            "does not say what it was trained on: what is left out might be among it",
            where=folder / ENCODER_FILE,
            fix=_AGAIN,
        )
    return found


def _start_card(start: TrainedFrom, folder: Path) -> EncoderCard:
    """The catalogue's card of what an encoder was; networks that files describe are refused."""
    try:
        card = find_card(start.encoder)
    except EncoderError as error:
        raise EncoderError(
            f"was trained on from {start.encoder}, which is unknown here: {error.problem}",
            where=folder,
            fix="Install the package that adds it, or this program's version that knows it.",
        ) from error
    if card.loader == "transformers":
        raise EncoderError(
            f"{start.encoder} is built by transformers, which would let a file say what to build",
            where=folder,
            fix="Train an encoder that timm or a function of a package builds.",
        )
    return card


def read_start(folder: Path) -> TrainedFrom:
    """What an encoder was before it was trained on.

    Raises
    ------
    EncoderError
        As `read_encoder_card`.
    """
    try:
        return TrainedFrom(**_read(folder)["trained_from"])
    except (KeyError, TypeError) as error:
        raise EncoderError(
            f"is no encoder: {error!r}", where=folder / ENCODER_FILE, fix=_AGAIN
        ) from error


def named_card(encoder: str, weights: Path | None) -> EncoderCard:
    """The card of an encoder that is named: of the folder of its weights if that has one.

    Raises
    ------
    EncoderError
        If the folder is another encoder's, or nothing has that name.
    """
    folder = encoder_folder(weights)
    if folder is None:
        return find_card(encoder)
    card = read_encoder_card(folder)
    if card.name != encoder:
        raise EncoderError(
            f"holds {card.name}, not {encoder}",
            where=folder,
            fix=f"Ask for the encoder {card.name}, or give the weights of {encoder}.",
        )
    return card


_AGAIN = "Write it again, or fetch it again from where it came."


def _read(folder: Path) -> dict[str, Any]:
    path = folder / ENCODER_FILE
    try:
        facts: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
        stated = (facts["format"], facts["format_version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EncoderError(f"is no encoder: {error!r}", where=path, fix=_AGAIN) from error
    if stated != (FORMAT, FORMAT_VERSION):
        raise EncoderError(
            f"is {stated[0]} version {stated[1]}, not {FORMAT} version {FORMAT_VERSION}", where=path
        )
    if facts.pop("digest", None) != digest_value(facts):
        raise EncoderError("was changed after it was written", where=path, fix=_AGAIN)
    return facts


def _unchanged(folder: Path, digest: str, state: State) -> State:
    if weights_digest(state) != digest:
        raise EncoderError(
            f"its weights are not those that {ENCODER_FILE} was written with",
            where=folder / WEIGHTS_FILE,
            fix=_AGAIN,
        )
    return state
