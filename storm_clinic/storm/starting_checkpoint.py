"""Fine-tuning from a checkpoint's weights instead of new ones: what fits, and what is taken over.

Weights that no gene belongs to are taken over as they are, the image axes among them. Of those that
belong to genes, a gene's own are taken over where the checkpoint knows it under this or another of
its names: its column at the entrance of expression, its row and bias in the head, its mean and
spread. Genes that the checkpoint does not know keep the new weights they were given.
"""

from __future__ import annotations

from pathlib import Path

import torch

from storm_clinic.errors import CheckpointError, LeakageError
from storm_clinic.files import Workspace
from storm_clinic.storm.checkpoint import Checkpoint, load_checkpoint
from storm_clinic.storm.config import GeneEncoding, StormConfig
from storm_clinic.storm.genes import GeneVocabulary
from storm_clinic.storm.model import StormModel
from storm_clinic.storm.section_sources import filled_in
from storm_clinic.storm.shipped import checkpoint_folder

# Weights that have one part a gene, and along which axis.
_OF_GENES = {
    "gene_scale.mean": 0,
    "gene_scale.spread": 0,
    "head.genes.weight": 0,
    "head.genes.bias": 0,
}
_ENTRANCE: dict[GeneEncoding, dict[str, int]] = {
    "mlp": {"gene_encoder.genes.weight": 1},
    "linear": {"expression_in.weight": 1},
    "novae": {},
}
# What must be alike for weights to mean the same. Dropout, the readout and the pitch in µm have no
# weights, and may be other ones.
_ALIKE = (
    "width",
    "n_layers",
    "n_heads",
    "image_width",
    "image_axes",
    "experts",
    "alibi",
    "gene_encoder",
    "gene_hidden",
    "gene_width",
)


def starting_folder(start: str, workspace: Workspace) -> Path:
    """The folder of a checkpoint as a YAML names it.

    Parameters
    ----------
    start : str
        A folder, absolute or under the workspace, in which ``${VARIABLE}`` is filled in; or the
        name of a checkpoint that comes with this package. A folder comes before a name.
    workspace : Workspace
        Where relative folders start.

    Raises
    ------
    CheckpointError
        If it is neither.
    InputError
        If a variable is not set.
    """
    folder = workspace.path(filled_in(start))
    return checkpoint_folder(folder if folder.is_dir() else start)


def load_start(
    folder: Path, config: StormConfig, *, row: str, encoder_digest: str, tile_um: float
) -> Checkpoint:
    """Read a checkpoint and make sure that a network may start from it.

    Parameters
    ----------
    folder : Path
        From `starting_folder`.
    config : StormConfig
        Of the network that is to start from it; its number of genes is of no account.
    row : str
        What its row is called, for errors.
    encoder_digest, tile_um
        What makes the embeddings that it will see; see `checkpoint.Inputs`.

    Raises
    ------
    CheckpointError
        If it cannot be read, or differs in what must be alike; names each with both values.
    """
    start = load_checkpoint(folder)
    pairs = {name: (getattr(config, name), getattr(start.model.config, name)) for name in _ALIKE}
    pairs["encoder_digest"] = (encoder_digest, start.inputs.encoder_digest)
    pairs["tile_um"] = (tile_um, start.inputs.tile_um)
    apart = [
        f"{name} is {own!r}, but {its!r} there" for name, (own, its) in pairs.items() if own != its
    ]
    if apart:
        raise CheckpointError(
            f"{row} cannot start from it: {'; '.join(apart)}",
            where=folder,
            fix="Give the network the checkpoint's settings, or set start: null for new weights.",
        )
    return start


def take_over(start: Checkpoint, model: StormModel, vocabulary: GeneVocabulary) -> None:
    """Put a checkpoint's weights into a new network that may know other genes.

    Parameters
    ----------
    start : Checkpoint
        Checked by `load_start`.
    model : StormModel
        Changed in place; genes that the checkpoint does not know keep the weights it has.
    vocabulary : GeneVocabulary
        The new network's genes.

    Raises
    ------
    CheckpointError
        If no gene is shared.
    """
    own, theirs = shared_genes(vocabulary, start.vocabulary)
    if not own:
        raise CheckpointError(
            f"knows none of the {len(vocabulary)} genes to be taught, such as "
            f"{vocabulary.symbols[0]}; it knows {start.vocabulary.symbols[0]} and others",
            where="start of fine-tuning",
            fix="Both must name genes by HGNC symbols.",
        )
    of_genes = {**_OF_GENES, **_ENTRANCE[model.config.gene_encoder]}
    state = model.state_dict()
    here, there = torch.tensor(own), torch.tensor(theirs)
    for name, given in start.model.state_dict().items():
        if name not in of_genes:
            state[name] = given
        else:
            axis = of_genes[name]
            state[name] = state[name].index_copy(axis, here, given.index_select(axis, there))
    model.load_state_dict(state)


def shared_genes(vocabulary: GeneVocabulary, other: GeneVocabulary) -> tuple[list[int], list[int]]:
    """Places of the genes that two vocabularies share, in each; other names are resolved by both.

    Raises
    ------
    CheckpointError
        If two genes of one are the same gene in the other; names them.
    """
    by_today = {vocabulary.resolve(symbol): place for place, symbol in enumerate(other.symbols)}
    by_own = {symbol: place for place, symbol in enumerate(other.symbols)}
    own, theirs = [], []
    for place, symbol in enumerate(vocabulary.symbols):
        found = by_own.get(other.resolve(symbol), by_today.get(symbol))
        if found is not None:
            own.append(place)
            theirs.append(found)
    twice = sorted({other.symbols[place] for place in theirs if theirs.count(place) > 1})
    if twice:
        raise CheckpointError(
            f"genes to be taught are one gene there: {', '.join(twice[:5])}",
            where="start of fine-tuning",
            fix="Rename the sections' genes to today's symbols.",
        )
    return own, theirs


def refuse_leak(seen: dict[str, str], where: str | Path) -> None:
    """Refuse to measure on sections that the start has seen.

    Parameters
    ----------
    seen : dict of str to str
        From `trained_on.seen_before`.
    where : str or Path
        The checkpoint's folder, or the encoder.

    Raises
    ------
    LeakageError
        If there is one; names all.
    """
    if not seen:
        return
    raise LeakageError(
        f"it was trained on what is to be left out: {described(seen)}",
        where=where,
        fix="Start from one that has not seen them, leave these sections out of the YAML, or "
        "pretrain within folds (pretrain_steps).",
    )


def described(seen: dict[str, str]) -> str:
    """Sections and what gave them away, as text."""
    return ", ".join(f"section {name} (same {what})" for name, what in sorted(seen.items()))
