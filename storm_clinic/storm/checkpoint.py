"""A STORM network as a folder: weights, what is known about them, genes; and published weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from storm_clinic.encoders.weights import weights_digest
from storm_clinic.errors import CheckpointError
from storm_clinic.files import atomic_write, digest_value, parse_json, write_json
from storm_clinic.storm.config import StormConfig
from storm_clinic.storm.domain import TrainingDomain
from storm_clinic.storm.genes import GeneVocabulary
from storm_clinic.storm.model import StormModel
from storm_clinic.storm.neighbourhood import Side
from storm_clinic.storm.reliability import GeneReliability

FORMAT = "storm_clinic/storm-checkpoint"
FORMAT_VERSION = 2
WEIGHTS_FILE = "model.safetensors"
EVIDENCE_FILE = "evidence.safetensors"
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
    side : 1, 3 or 5
        Spots along an edge of a context.

    Raises
    ------
    CheckpointError
        If one cannot be.
    """

    encoder: str
    encoder_digest: str
    tile_um: float
    side: Side = 5

    def __post_init__(self) -> None:
        wrong = [
            f"{name} is {getattr(self, name)!r}"
            for name, right in (
                ("encoder", isinstance(self.encoder, str)),
                ("encoder_digest", isinstance(self.encoder_digest, str)),
                ("tile_um", _is_length(self.tile_um)),
                ("side", self.side in get_args(Side)),
            )
            if not right
        ]
        if wrong:
            raise CheckpointError(f"cannot be: {'; '.join(wrong)}", where="inputs of STORM")


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
        SHA-256 over all the rest.
    reliability : GeneReliability or None
        How well each gene was imputed on held-out tissue; None where that was not measured.
    domain : TrainingDomain or None
        What image embeddings it was trained on.
    card : mapping
        For people: data, licence, patients, technologies, limits. Plain JSON.
    """

    model: StormModel
    inputs: Inputs
    vocabulary: GeneVocabulary
    digest: str
    reliability: GeneReliability | None = None
    domain: TrainingDomain | None = None
    card: Mapping[str, Any] = field(default_factory=dict)


def save_checkpoint(
    folder: str | Path,
    model: StormModel,
    *,
    inputs: Inputs,
    vocabulary: GeneVocabulary,
    reliability: GeneReliability | None = None,
    domain: TrainingDomain | None = None,
    card: Mapping[str, Any] | None = None,
) -> str:
    """Write ``model.safetensors``, ``evidence.safetensors`` and ``config.json`` into a folder.

    The configuration is written last: a folder with one is whole. The file of evidence is absent
    where there is neither reliability nor domain. See `Checkpoint` for the arguments.

    Returns
    -------
    str
        The digest.

    Raises
    ------
    CheckpointError
        If vocabulary or reliability has another number of genes, the domain is of another width,
        a weight is not finite, or the card is not plain JSON.
    """
    folder = Path(folder)
    problem = _mismatch(model.config, vocabulary, reliability, domain)
    if problem:
        raise CheckpointError(problem, where=folder)
    state = {name: value.detach().cpu().contiguous() for name, value in _state(model).items()}
    odd = [name for name, value in state.items() if not torch.isfinite(value).all()]
    if odd:
        raise CheckpointError(f"weights are not finite: {_some(odd)}", where=folder)
    evidence = _to_tensors({_RELIABILITY: reliability, _DOMAIN: domain})
    facts = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config": model.config.to_json(),
        "inputs": asdict(inputs),
        "genes": vocabulary.to_json(),
        "vocabulary_digest": vocabulary.digest,
        "weights_digest": weights_digest(state),
        "evidence_digest": weights_digest(evidence) if evidence else None,
        "reliability": None if reliability is None else {"how": reliability.how},
        "card": dict(card or {}),
    }
    try:
        digest = digest_value(facts)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the card is not plain JSON: {error}", where=folder) from error
    (folder / CONFIG_FILE).unlink(missing_ok=True)  # until all is there, nothing is
    (folder / EVIDENCE_FILE).unlink(missing_ok=True)
    for name, tensors in ((WEIGHTS_FILE, state), (EVIDENCE_FILE, evidence)):
        if tensors:
            with atomic_write(folder / name) as part:
                part.write_bytes(save(tensors))  # `save_file` would let nobody else read it
    write_json(folder / CONFIG_FILE, {**facts, "digest": digest})
    return digest


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
        facts: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
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
        how, card = str((facts["reliability"] or {"how": ""})["how"]), dict(facts["card"])
        weights, evidence = str(facts["weights_digest"]), facts["evidence_digest"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"is no checkpoint of STORM: {error!r}", where=path) from error
    if digest_value(facts) != digest:
        raise CheckpointError("was changed after it was written", where=path, fix=_AGAIN)
    state = _read_unchanged(folder / WEIGHTS_FILE, weights)
    arrays: dict[str, dict[str, NDArray[Any]]] = {_RELIABILITY: {}, _DOMAIN: {}}
    if evidence is not None:
        tensors = _read_unchanged(folder / EVIDENCE_FILE, evidence)
        for name, tensor in tensors.items():
            kind, _, part = name.partition(".")
            if kind not in arrays:
                raise CheckpointError(f"unknown tensor {name}", where=folder / EVIDENCE_FILE)
            arrays[kind][part] = tensor.numpy()
    known, seen = arrays[_RELIABILITY], arrays[_DOMAIN]
    reliability = GeneReliability.from_arrays(known, how) if known else None
    domain = TrainingDomain.from_arrays(seen) if seen else None
    problem = _mismatch(config, vocabulary, reliability, domain)
    if problem:
        raise CheckpointError(problem, where=path)
    model = build_model(config, state, where=folder / WEIGHTS_FILE)
    return Checkpoint(model, inputs, vocabulary, digest, reliability, domain, card)


def build_model(config: StormConfig, state: State, *, where: str | Path) -> StormModel:
    """A network with exactly these weights, in evaluation mode.

    Raises
    ------
    CheckpointError
        If a weight is missing or unexpected, or its shape is another; names them all by kind.
    """
    # Sizes are compared before memory is taken for them.
    with torch.device("meta"):
        own = _state(StormModel(config))
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
    model = StormModel(config)
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


_RELIABILITY, _DOMAIN = "reliability", "domain"
_CONTENT = {WEIGHTS_FILE: "weights", EVIDENCE_FILE: "tensors of evidence"}
_AGAIN = "Fetch the checkpoint again, or use the one that it was made from."


def _is_length(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value < float("inf")


def _state(model: StormModel) -> State:
    return dict(model.state_dict())


def _mismatch(
    config: StormConfig,
    vocabulary: GeneVocabulary,
    reliability: GeneReliability | None,
    domain: TrainingDomain | None,
) -> str | None:
    if len(vocabulary) != config.n_genes:
        return f"{len(vocabulary)} genes do not go with a network for {config.n_genes}"
    if reliability is not None and len(reliability) != config.n_genes:
        return f"reliability of {len(reliability)} genes, but there are {config.n_genes}"
    if domain is not None and len(domain.mean) != config.image_width:
        return f"a domain {len(domain.mean)} wide, but image embeddings of {config.image_width}"
    return None


def _to_tensors(parts: Mapping[str, GeneReliability | TrainingDomain | None]) -> State:
    return {
        f"{kind}.{name}": torch.from_numpy(np.ascontiguousarray(array))
        for kind, part in parts.items()
        if part is not None
        for name, array in part.to_arrays().items()
    }


def _read_unchanged(path: Path, digest: str) -> State:
    state = _read(path)
    if weights_digest(state) != digest:
        raise CheckpointError(
            f"its {_CONTENT[path.name]} are not those that {CONFIG_FILE} was written with",
            where=path,
            fix=_AGAIN,
        )
    return state


def _read(path: Path) -> State:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"is no readable safetensors file: {error}", where=path) from error


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
