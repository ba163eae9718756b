"""Build an encoder, fill in its weights, and check that it is what its card says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from storm_clinic.encoders.contract import EncoderCard, Published, State
from storm_clinic.encoders.encoder_folder import named_card
from storm_clinic.encoders.encoding import LoadedEncoder
from storm_clinic.encoders.remote_code import require_consent
from storm_clinic.encoders.weights import (
    find_weights,
    hub_file,
    origin,
    read_weights,
    weights_digest,
)
from storm_clinic.errors import EncoderError

_SHOWN = 3


def load_encoder(
    encoder: str | EncoderCard, *, weights: Path | None = None, device: str = "auto"
) -> LoadedEncoder:
    """Load an encoder, ready to encode.

    Parameters
    ----------
    encoder : str or EncoderCard
        A name of the catalogue or of an installed package's entry point, or the facts themselves;
        or the name of an encoder that was trained on here, whose folder is given as ``weights``.
    weights : Path, optional
        File or folder of weights on this machine; nothing is fetched then.
    device : str
        "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1".

    Raises
    ------
    EncoderError
        If the encoder is unknown, its package or weights cannot be had, the file is damaged or
        belongs to another network, or the network contradicts its card.
    """
    card = named_card(encoder, weights) if isinstance(encoder, str) else encoder
    target = choose_device(device)
    model, digest = load_network(card, weights)
    model = model.to(target)
    if card.channels_last:
        model = model.to(memory_format=torch.channels_last)
    loaded = LoadedEncoder(card, model, digest, target)
    _check_output(loaded)
    return loaded


def load_network(card: Published, weights: Path | None) -> tuple[torch.nn.Module, str]:
    """A network with its weights, on the CPU in fp32, and the digest of these weights.

    Raises
    ------
    EncoderError
        As `load_encoder`.
    """
    if card.remote_code:
        model = _load_remote_code(card, weights)
        digest = weights_digest(model.state_dict())
    else:
        path = find_weights(card, weights)
        state = read_weights(path)
        if card.convert is not None:
            state = card.convert(state)
        if card.loader == "transformers":
            model = _load_transformers(card, path, fetch=weights is None)
        else:
            model = build_model(card)
            _fill(model, state, path)
        digest = weights_digest(state)
    return model.float().eval().requires_grad_(False), digest


def choose_device(device: str) -> torch.device:
    """The device of that name; "auto" is a GPU if there is one.

    Raises
    ------
    EncoderError
        If it does not exist here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise EncoderError(f"no device is called {device!r}", where="device") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise EncoderError(
            f"{device} is not there; this machine shows {torch.cuda.device_count()} GPU(s)",
            where="device",
            fix="Use 'auto' or 'cpu', or check the driver with nvidia-smi.",
        )
    return found


def build_model(card: Published) -> torch.nn.Module:
    """The network of timm or of a function, without its weights, on the meta device if possible.

    Raises
    ------
    EncoderError
        If the library is missing or refuses the card's arguments.
    """
    with torch.device("meta"):
        model = _build(card)
    persistent = set(model.state_dict())
    if any(name not in persistent for name, _ in model.named_buffers()):
        return _build(card)  # buffers that no file fills in must be computed
    return model


def _build(card: Published) -> torch.nn.Module:
    with _building(card):
        return card.loader() if callable(card.loader) else _build_timm(card)


@contextmanager
def _building(card: Published) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise EncoderError(
            f"needs a package that is missing: {error}",
            where=f"encoder {card.name}",
            fix=card.install,
        ) from error
    except (TypeError, ValueError, RuntimeError, OSError, AttributeError) as error:
        raise EncoderError(
            f"the network cannot be built: {error}", where=f"encoder {card.name}"
        ) from error


def _build_timm(card: Published) -> torch.nn.Module:
    import timm
    from timm import layers

    arguments = dict(card.arguments)
    if isinstance(arguments.get("mlp_layer"), str):
        arguments["mlp_layer"] = getattr(layers, arguments["mlp_layer"])
    if isinstance(arguments.get("act_layer"), str):
        arguments["act_layer"] = getattr(torch.nn, arguments["act_layer"])
    model: torch.nn.Module = timm.create_model(card.architecture, pretrained=False, **arguments)
    found = getattr(model, "num_prefix_tokens", 0)
    if found != card.prefix_tokens:
        raise ValueError(f"it has {found} prefix tokens, its card says {card.prefix_tokens}")
    return model


def _load_transformers(card: Published, path: Path, *, fetch: bool) -> torch.nn.Module:
    """A network that transformers knows; transformers itself maps published names to its own."""
    if fetch:
        hub_file(card, ("config.json",))  # lands in the same folder
    if not (path.parent / "config.json").is_file():
        raise EncoderError(
            "holds no config.json, which says what the network looks like",
            where=path.parent,
            fix=origin(card),
        )
    return _from_pretrained(card, path.parent)


def _load_remote_code(card: Published, weights: Path | None) -> torch.nn.Module:
    """A network whose code lies beside its weights, if the user agreed to just this code."""
    folder = weights if weights is None or weights.is_dir() else weights.parent
    require_consent(card, folder or Path(), given=folder is not None)
    model = _from_pretrained(card, folder or Path())
    if not card.member:
        return model
    with _building(card):
        part = getattr(model, card.member)()
    # CONCH v1.5 comes with its own transform, which is not used: the card says what is shown.
    network: torch.nn.Module = part[0] if isinstance(part, tuple) else part
    return network


def _from_pretrained(card: Published, folder: Path) -> torch.nn.Module:
    with _building(card):
        import transformers

        kind = getattr(transformers, card.architecture or "AutoModel")
        model, report = kind.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=card.remote_code,
            dtype=torch.float32,
            output_loading_info=True,
            **card.arguments,
        )
    _require_all(
        folder,
        missing=report["missing_keys"],
        unexpected=report["unexpected_keys"],
        reshaped=[str(key) for key in report["mismatched_keys"]],
    )
    network: torch.nn.Module = model
    return network


def _fill(model: torch.nn.Module, state: State, path: Path) -> None:
    """Fill in every tensor, or say which do not fit."""
    wanted = model.state_dict()
    _require_all(
        path,
        missing=set(wanted) - set(state),
        unexpected=set(state) - set(wanted),
        reshaped=[
            f"{name} {tuple(state[name].shape)} instead of {tuple(wanted[name].shape)}"
            for name in set(wanted) & set(state)
            if wanted[name].shape != state[name].shape
        ],
    )
    model.load_state_dict(state, strict=True, assign=True)


def _require_all(
    path: Path, *, missing: Iterable[str], unexpected: Iterable[str], reshaped: Iterable[str]
) -> None:
    problems = [
        f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''}"
        for what, names in (
            ("missing", sorted(missing)),
            ("unexpected", sorted(unexpected)),
            ("of another shape", sorted(reshaped)),
        )
        if names
    ]
    if problems:
        raise EncoderError(
            f"its tensors are not those of this network ({'; '.join(problems)})",
            where=path,
            fix="Check that the file belongs to this encoder.",
        )


def _check_output(loaded: LoadedEncoder) -> None:
    """Encode one blank tile: the width and finiteness are known before a slide is opened."""
    card = loaded.card
    blank = torch.full((1, card.tile_px, card.tile_px, 3), 255, dtype=torch.uint8)
    try:
        embedding = loaded.encode(blank)
    except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError) as error:
        raise EncoderError(
            f"cannot encode a tile of {card.tile_px} px: {error}", where=f"encoder {card.name}"
        ) from error
    if embedding.shape != (1, card.width):
        raise EncoderError(
            f"gives embeddings of shape {tuple(embedding.shape[1:])}, its card says {card.width}",
            where=f"encoder {card.name}",
        )
    if not torch.isfinite(embedding).all():
        raise EncoderError(
            "its embedding of a blank tile is not finite: the weights are damaged",
            where=f"encoder {card.name}",
        )
