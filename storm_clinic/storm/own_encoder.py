"""The tile encoder that was trained with a network, kept in the folder of its checkpoint."""

from __future__ import annotations

from pathlib import Path

from storm_clinic.encoders.encoder_folder import (
    copy_encoder,
    is_encoder_folder,
    read_encoder_card,
    write_encoder,
)
from storm_clinic.storm.checkpoint import Inputs
from storm_clinic.storm.image_encoder import TrainableEncoder

_FOLDER = "encoder"


def keep_own_encoder(checkpoint: Path, name: str, encoder: TrainableEncoder) -> tuple[Path, str]:
    """Write a trained encoder beside its network, before that: a digest of the checkpoint names it.

    Parameters
    ----------
    checkpoint : Path
        Folder of the checkpoint.
    name : str
        Of the encoder.
    encoder : TrainableEncoder
        As it is now.

    Returns
    -------
    Path and str
        Its folder, for ``load_encoder(name, weights=folder)``, and the digest of its weights.

    Raises
    ------
    EncoderError
        See `write_encoder`.
    """
    folder = checkpoint / _FOLDER
    return folder, write_encoder(folder, name, encoder.card, encoder.start, encoder.network)


def pass_on_encoder(weights: Path, checkpoint: Path) -> None:
    """Copy an encoder's folder into a checkpoint that was made on its embeddings.

    Raises
    ------
    EncoderError
        If its weights were changed since it was written.
    """
    if (checkpoint / _FOLDER).resolve() != weights.resolve():
        copy_encoder(weights, checkpoint / _FOLDER)


def own_encoder(checkpoint: Path, inputs: Inputs) -> Path | None:
    """The folder of the encoder that came with a checkpoint; None where it is the catalogue's.

    An encoder that an earlier checkpoint left in the folder is not taken for this one's.

    Raises
    ------
    EncoderError
        If the folder is damaged.
    """
    folder = checkpoint / _FOLDER
    if is_encoder_folder(folder) and read_encoder_card(folder).name == inputs.encoder:
        return folder
    return None
