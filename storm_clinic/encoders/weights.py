"""Find, read and identify weights. Nothing that could run code is ever unpickled."""

from __future__ import annotations

import hashlib
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from storm_clinic.encoders.contract import PUBLISHED, Published, State
from storm_clinic.errors import EncoderError

_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
_WRAPPERS = ("state_dict", "model")


def find_weights(card: Published, weights: Path | None) -> Path:
    """The file that holds an encoder's weights.

    A file or folder named by the caller comes first, then what an installed package brings, then
    the hub (its cache alone where ``HF_HUB_OFFLINE`` is set).

    Raises
    ------
    EncoderError
        If there is none; says where the weights come from, under which licence, and what to do
        without a network.
    """
    if weights is not None:
        return _local_file(card, weights)
    if card.packaged is not None:
        return card.packaged()
    if card.hub_id is not None:
        return hub_file(card, card.files)
    raise EncoderError(
        "its weights must be named: it comes neither from the hub nor with a package",
        where=f"encoder {card.name}",
        fix=f"Give the file or folder with --weights. {origin(card)}",
    )


def _local_file(card: Published, weights: Path) -> Path:
    if weights.is_file():
        return weights
    if not weights.is_dir():
        raise EncoderError("there is no such file or folder", where=weights, fix=origin(card))
    for name in dict.fromkeys((*card.files, *PUBLISHED)):
        if (weights / name).is_file():
            return weights / name
    found = sorted(path for path in weights.iterdir() if path.suffix in _SUFFIXES)
    if len(found) == 1:
        return found[0]
    problem = (
        f"holds {', '.join(path.name for path in found[:4])}: which of them is not clear"
        if found
        else f"holds no weights (no file ends in {', '.join(_SUFFIXES)})"
    )
    raise EncoderError(problem, where=weights, fix="Name the file itself. " + origin(card))


def hub_file(card: Published, names: tuple[str, ...]) -> Path:
    """The first of these files that the encoder's repository on the hub, or its cache, has.

    Raises
    ------
    EncoderError
        If there is none, or it cannot be fetched.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError

    where = f"encoder {card.name}"
    reason: Exception | None = None
    for name in names:
        try:
            return Path(hf_hub_download(str(card.hub_id), name))
        except EntryNotFoundError as error:
            reason = error  # neither there nor in the cache under this name
        except GatedRepoError as error:
            raise EncoderError(
                f"the hub refuses {card.hub_id}: its terms are not accepted for this account",
                where=where,
                fix=origin(card),
            ) from error
        except (HfHubHTTPError, OSError, ValueError) as error:
            raise EncoderError(
                f"{card.hub_id} cannot be fetched: {_first_line(error)}",
                where=where,
                fix=origin(card),
            ) from error
    raise EncoderError(
        f"no {' or '.join(names)} of {card.hub_id} in reach: {_first_line(reason)}",
        where=where,
        fix=origin(card),
    ) from reason


def origin(card: Published) -> str:
    """Where an encoder's weights come from, what they may be used for, and how to do offline."""
    if card.hub_id is None:
        home = f"Its weights come from {card.home}. " if card.home else ""
        return f"{home}Licence of its weights: {card.licence}."
    terms = "accept its terms there and log in with 'hf auth login'" if card.gated else "no terms"
    return (
        f"It comes from https://huggingface.co/{card.hub_id}, licence {card.licence} ({terms}). "
        "Without a network, copy that repository's files here and give their folder with --weights."
    )


def read_weights(path: Path) -> State:
    """Read a file of tensors: safetensors, else PyTorch's format without code.

    Raises
    ------
    EncoderError
        If it is damaged, holds anything but tensors, or would run code.
    """
    found = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for wrapper in _WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict) or not found:
        raise EncoderError("holds no table of tensors", where=path)
    odd = next((name for name, value in found.items() if not isinstance(value, torch.Tensor)), None)
    if odd is not None:
        raise EncoderError(
            f"holds more than tensors: {odd!r} is {type(found[odd]).__name__}", where=path
        )
    return {str(name): tensor for name, tensor in found.items()}


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise EncoderError(
            f"cannot be read as tensors alone ({_first_line(error)}); what else it holds could "
            "run code and is refused",
            where=path,
            fix="Ask for it as safetensors, or convert it on a machine you can afford to lose.",
        ) from error
    # torch.load has no error of its own: what it raises depends on where the damage is.
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, IndexError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> EncoderError:
    return EncoderError(
        f"cannot be read: {_first_line(error)}", where=path, fix="Fetch the file again."
    )


def _first_line(error: Exception | None) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def weights_digest(state: State) -> str:
    """SHA-256 over all tensors' names, types, shapes and bytes, sorted by name.

    The same weights have the same digest from safetensors and from PyTorch's format.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
