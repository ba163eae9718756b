"""What is wanted of a STORM checkpoint: its genes, the grid of its tiles, its folder's contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storm_clinic.errors import ContractMismatch, FeatureError
from storm_clinic.features.storm_contract import StormContract
from storm_clinic.features.storm_expression import EVIDENCE
from storm_clinic.features.storm_writer import ImputedGenes
from storm_clinic.files import digest_value, safe_name
from storm_clinic.licence_terms import joined
from storm_clinic.slides.tiles import TileGeometry

if TYPE_CHECKING:
    from storm_clinic.encoders.contract import EncoderCard
    from storm_clinic.features.contract import FeatureContract
    from storm_clinic.features.store import FeatureStore
    from storm_clinic.storm.checkpoint import Checkpoint

_SAME = 1e-9


@dataclass(frozen=True)
class StormChoice:
    """What is wanted of a STORM checkpoint.

    Attributes
    ----------
    checkpoint : str or Path
        A folder, or the name of a shipped one.
    genes : str, Path or sequence of str, optional
        A file of gene symbols, symbols with commas between them, or a list; by default all that
        have evidence.
    min_r : float or None
        What the lower bound of a gene's held-out correlation must exceed; None asks for no
        evidence.
    per_tile : bool
        Store expression of every tile, not the slide's mean alone.
    """

    checkpoint: str | Path
    genes: str | Path | Sequence[str] | None = None
    min_r: float | None = EVIDENCE
    per_tile: bool = False


@dataclass(frozen=True, eq=False)
class StormPlan:
    """A checkpoint that was read, and what is to be made with it.

    ``encoder_weights`` is the folder of the tile encoder that was trained with it, if one was.
    """

    name: str
    checkpoint: Checkpoint
    genes: ImputedGenes | None
    min_r: float | None
    per_tile: bool
    encoder_weights: Path | None


def plan_storm(choice: StormChoice, *, same_as: StormContract | None = None) -> StormPlan:
    """Read a checkpoint and choose its genes.

    Parameters
    ----------
    choice : StormChoice
        What is wanted.
    same_as : StormContract, optional
        Of files that a model learned from: the checkpoint must be theirs by its digest, whatever
        its folder is called, and its files go by their name.

    Raises
    ------
    CheckpointError
        If there is none, or it cannot be read.
    ContractMismatch
        If it is another checkpoint than that of ``same_as``; with both digests.
    InputError
        If genes are unknown or lack the evidence asked for, or expression of tiles is asked for
        where no gene is imputed.
    """
    from storm_clinic.storm.checkpoint import load_checkpoint
    from storm_clinic.storm.gene_choice import choose_genes, read_gene_names
    from storm_clinic.storm.own_encoder import own_encoder
    from storm_clinic.storm.shipped import checkpoint_folder

    folder = checkpoint_folder(choice.checkpoint)
    name = safe_name(folder.name, what="checkpoint")
    checkpoint = load_checkpoint(folder)
    if same_as is not None:
        if checkpoint.digest != same_as.checkpoint_digest:
            raise ContractMismatch(
                f"its digest is {checkpoint.digest!r}, not {same_as.checkpoint_digest!r}, the one "
                f"of {same_as.checkpoint} that the model learned from",
                where=folder,
                fix="Name the model's checkpoint with --storm FOLDER.",
            )
        name = same_as.checkpoint
    asked = None if choice.genes is None else read_gene_names(choice.genes)
    genes = choose_genes(
        checkpoint.vocabulary, checkpoint.reliability, asked=asked, min_r=choice.min_r
    )
    if genes is None and choice.per_tile:
        raise FeatureError(
            "expression of tiles is asked for, but no gene has evidence",
            where=folder,
            fix="Extract its embeddings alone, without --per-tile.",
        )
    weights = own_encoder(folder, checkpoint.inputs)
    return StormPlan(name, checkpoint, genes, choice.min_r, choice.per_tile, weights)


def require_encoder(plan: StormPlan, encoder: str, digest: str | None = None) -> None:
    """Refuse an encoder that the checkpoint was not trained on; by name, or by its weights.

    Raises
    ------
    ContractMismatch
        With both values.
    """
    inputs = plan.checkpoint.inputs
    pairs = [("encoder", inputs.encoder, encoder)]
    if digest is not None:
        pairs.append(("encoder_digest", inputs.encoder_digest, digest))
    _require(plan, pairs, "Leave the encoder to the checkpoint, and give the weights it names.")


def storm_geometry(plan: StormPlan, card: EncoderCard, **asked: float | None) -> TileGeometry:
    """The checkpoint's grid, in pixels of the encoder's tiles.

    Tiles of ``tile_um`` lie ``pitch_um`` apart; the step is rounded to whole pixels of a tile,
    which at the usual 224 px is less than a quarter of a percent.

    Parameters
    ----------
    plan : StormPlan
        Its checkpoint states both lengths.
    card : EncoderCard
        Of the checkpoint's encoder.
    asked : float or None
        ``tile_px``, ``tile_mpp`` and ``overlap_px`` as the caller wants them, if at all.

    Raises
    ------
    ContractMismatch
        If the caller wants another geometry; with both values.
    """
    inputs, pitch_um = plan.checkpoint.inputs, plan.checkpoint.model.config.pitch_um
    mpp = inputs.tile_um / card.tile_px
    overlap_px = card.tile_px - max(1, round(pitch_um / mpp))
    own = {"tile_px": card.tile_px, "tile_mpp": mpp, "overlap_px": overlap_px}
    pairs = [(name, own[name], value) for name, value in asked.items() if value is not None]
    _require(plan, pairs, "Leave the grid to the checkpoint.")
    return TileGeometry(card.tile_px, mpp, overlap_px)


def settle_storm(
    plan: StormPlan, geometry: TileGeometry, store: FeatureStore, folder: Path
) -> StormContract:
    """What all STORM files of this plan from this store have in common; the folder is held to it.

    Raises
    ------
    ContractMismatch
        If the folder's files were made in another way; names each field with both values.
    StorageError
        If it cannot be written.
    """
    contract = storm_contract(plan, geometry, store.contract)
    contract.settle(folder)
    return contract


def storm_contract(
    plan: StormPlan, geometry: TileGeometry, tiles: FeatureContract
) -> StormContract:
    """What all STORM files of this plan have in common that are made from such tiles."""
    checkpoint, genes = plan.checkpoint, plan.genes
    licence = checkpoint.card.get("licence")
    return StormContract(
        checkpoint=plan.name,
        checkpoint_digest=checkpoint.digest,
        encoder=checkpoint.inputs.encoder,
        encoder_digest=checkpoint.inputs.encoder_digest,
        source_digest=tiles.digest,
        width=checkpoint.model.config.width,
        mpp=geometry.mpp,
        tile_px=geometry.tile_px,
        overlap_px=geometry.overlap_px,
        n_genes=0 if genes is None else len(genes.symbols),
        genes_digest=None if genes is None else digest_value(list(genes.symbols)),
        min_r=plan.min_r,
        per_tile=plan.per_tile,
        licence=joined(None if licence is None else str(licence), tiles.licence),
    )


def _require(plan: StormPlan, pairs: Sequence[tuple[str, Any, Any]], fix: str) -> None:
    listed = [
        f"{name} is {own!r}, not {asked!r}"
        for name, own, asked in pairs
        if own != asked and not (isinstance(own, float) and abs(own - asked) <= _SAME * own)
    ]
    if listed:
        raise ContractMismatch(
            f"the checkpoint wants other tiles than are asked for: {'; '.join(listed)}",
            where=f"checkpoint {plan.name}",
            fix=fix,
        )
