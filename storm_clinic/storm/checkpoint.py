"""A STORM network as a folder: weights, configuration, genes; and weights that others published."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from storm_clinic.encoders.weights import weights_digest
from storm_clinic.errors import CheckpointError
from storm_clinic.files import atomic_write, digest_value, write_json
from storm_clinic.storm.config import StormConfig
from storm_clinic.storm.genes import GeneVocabulary
from storm_clinic.storm.model import StormModel

FORMAT = "storm_clinic/storm-checkpoint"
FORMAT_VERSION = 1
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
_SHOWN = 5
State = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What image embeddings must be for a network to understand them.

    Attributes
    ----------
    encoder, encoder_digest : str
        Name of the tile encoder, and digest of its weights.
    tile_um : float
        Side of a tile around a spot's centre.
    """

    encoder: str
    encoder_digest: str
    tile_um: float


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A network with all that is needed to use it.

    Attributes
    ----------
    model : StormModel
        Its ``config`` holds the pitch.
    inputs : Inputs
    vocabulary : GeneVocabulary
        Names of ``config.n_genes`` genes, in order.
    digest : str
        SHA-256 over weights, configuration, inputs and vocabulary.
    """

    model: StormModel
    inputs: Inputs
    vocabulary: GeneVocabulary
    digest: str


def save_checkpoint(
    folder: str | Path, model: StormModel, *, inputs: Inputs, vocabulary: GeneVocabulary
) -> str:
    """Write ``model.safetensors`` and ``config.json`` into a folder; returns the digest.

    The configuration is written last: a folder with one is whole.

    Raises
    ------
    CheckpointError
        If the vocabulary has another number of genes, or a weight is not finite.
    """
    folder = Path(folder)
    if len(vocabulary) != model.config.n_genes:
        raise CheckpointError(
            f"{len(vocabulary)} genes do not go with a network for {model.config.n_genes}",
            where=folder,
        )
    state = {name: value.detach().cpu().contiguous() for name, value in _state(model).items()}
    odd = [name for name, value in state.items() if not torch.isfinite(value).all()]
    if odd:
        raise CheckpointError(f"weights are not finite: {_some(odd)}", where=folder)
    facts = _facts(model.config, inputs, vocabulary, weights_digest(state))
    with atomic_write(folder / WEIGHTS_FILE) as part:
        save_file(state, part)
    write_json(folder / CONFIG_FILE, {**facts, "digest": digest_value(facts)})
    return digest_value(facts)


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """Read what `save_checkpoint` wrote, on the CPU and ready for use.

    Raises
    ------
    CheckpointError
        If a file is missing, damaged, changed since it was written or of another version, or if
        weights do not fit the configuration; names them.
    """
    folder = Path(folder)
    path = folder / CONFIG_FILE
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        stated = (facts["format"], facts["format_version"])
        if stated != (FORMAT, FORMAT_VERSION):
            raise CheckpointError(
                f"is {stated[0]} version {stated[1]}, not {FORMAT} version {FORMAT_VERSION}",
                where=path,
            )
        digest = facts.pop("digest")
        config = StormConfig.from_json(facts["config"])
        inputs = Inputs(**facts["inputs"])
        vocabulary = GeneVocabulary.from_json(facts["genes"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"is no checkpoint of STORM: {error!r}", where=path) from error
    if digest_value(facts) != digest:
        raise CheckpointError("was changed after it was written", where=path, fix=_AGAIN)
    state = _read(folder / WEIGHTS_FILE)
    if weights_digest(state) != facts["weights_digest"]:
        raise CheckpointError(
            f"its weights are not those that {CONFIG_FILE} was written with",
            where=folder / WEIGHTS_FILE,
            fix=_AGAIN,
        )
    return Checkpoint(
        build_model(config, state, where=folder / WEIGHTS_FILE), inputs, vocabulary, digest
    )


def build_model(config: StormConfig, state: State, *, where: str | Path) -> StormModel:
    """A network with exactly these weights, in evaluation mode.

    Raises
    ------
    CheckpointError
        If a weight is missing or unexpected, or its shape is another; names them all by kind.
    """
    model = StormModel(config)
    own = _state(model)
    shaped = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in sorted(own.keys() & state.keys())
        if state[name].shape != own[name].shape
    ]
    found = {
        "missing": sorted(own.keys() - state.keys()),
        "unexpected": sorted(state.keys() - own.keys()),
        "of another shape": shaped,
    }
    problems = [f"{len(names)} {kind}: {_some(names)}" for kind, names in found.items() if names]
    if problems:
        raise CheckpointError(f"weights do not fit; {'; '.join(problems)}", where=where)
    model.load_state_dict(state)
    return model.eval()


def load_published(
    weights: str | Path,
    config: StormConfig,
    key_map: Mapping[str, str],
    *,
    ignored: Collection[str] = (),
) -> StormModel:
    """Load weights published under other names, through a map that leaves nothing to guess.

    Parameters
    ----------
    weights : str or Path
        A safetensors file.
    config : StormConfig
        The shape that the weights were made for.
    key_map : mapping of published name to ours
        Must account for every tensor of the file, and fill every weight of the network.
    ignored : collection of str
        Published names to leave out knowingly, such as decoders of pretraining.

    Raises
    ------
    CheckpointError
        If the file holds a tensor that the map does not name, the map names one that it lacks, two
        lead to one weight, or the result does not fit the network; names them.
    """
    path = Path(weights)
    published = _read(path)
    named = set(key_map) | set(ignored)
    ours = list(key_map.values())
    found = {
        "in the file, but neither mapped nor ignored": sorted(published.keys() - named),
        "mapped or ignored, but not in the file": sorted(named - published.keys()),
        "both mapped and ignored": sorted(set(key_map) & set(ignored)),
        "led to twice": sorted({name for name in ours if ours.count(name) > 1}),
    }
    problems = [f"{len(names)} {kind}: {_some(names)}" for kind, names in found.items() if names]
    if problems:
        raise CheckpointError(
            f"the map of names does not fit; {'; '.join(problems)}",
            where=path,
            fix="Account for every published tensor: map it, or ignore it by name.",
        )
    state = {own: published[name] for name, own in key_map.items()}
    return build_model(config, state, where=path)


_AGAIN = "Fetch the checkpoint again, or use the one that it was made from."


def _state(model: StormModel) -> State:
    return dict(model.state_dict())


def _facts(
    config: StormConfig, inputs: Inputs, vocabulary: GeneVocabulary, weights: str
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config": config.to_json(),
        "inputs": asdict(inputs),
        "genes": vocabulary.to_json(),
        "vocabulary_digest": vocabulary.digest,
        "weights_digest": weights,
    }


def _read(path: Path) -> State:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"is no readable safetensors file: {error}", where=path) from error


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
