"""The tile encoder that was trained with a network, kept in the folder of its checkpoint.

It is written before the network. While it is exchanged there is no checkpoint: a configuration that
is there always finds its own encoder, or one that it names by digest and that is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from storm_clinic.encoders.encoder_folder import (
    copy_encoder,
    is_encoder_folder,
    read_encoder_card,
    read_trained_on,
    read_weights_digest,
    write_encoder,
)
from storm_clinic.storm.checkpoint import CONFIG_FILE, Inputs
from storm_clinic.storm.image_encoder import TrainableEncoder
from storm_clinic.storm.trained_on import TRAINED_ON, TrainedSection, from_card, to_card

_FOLDER = "encoder"


def is_own(weights: Path | None) -> bool:
    """Whether an encoder was trained here, by where its weights are read from."""
    return weights is not None and is_encoder_folder(weights)


def keep_own_encoder(
    checkpoint: Path, name: str, encoder: TrainableEncoder, trained_on: Sequence[TrainedSection]
) -> tuple[Path, str]:
    """Write a trained encoder; the checkpoint that was there is taken away.

    Parameters
    ----------
    checkpoint : Path
        Folder of the checkpoint.
    name : str
        Of the encoder.
    encoder : TrainableEncoder
        As it is now.
    trained_on : sequence of TrainedSection
        All that it has seen.

    Returns
    -------
    Path and str
        Its folder, for ``load_encoder(name, weights=folder)``, and the digest of its weights.

    Raises
    ------
    EncoderError
        See `write_encoder`.
    """
    (checkpoint / CONFIG_FILE).unlink(missing_ok=True)
    folder = checkpoint / _FOLDER
    digest = write_encoder(
        folder,
        name,
        encoder.card,
        encoder.start,
        encoder.network,
        trained_on=to_card(trained_on),
    )
    return folder, digest


def pass_on_encoder(weights: Path | None, checkpoint: Path) -> None:
    """Copy an encoder's folder to a checkpoint that is made on its embeddings.

    Nothing is copied of an encoder that has no folder. The checkpoint that was there is taken away.

    Raises
    ------
    EncoderError
        If its weights were changed since it was written.
    """
    if weights is None or not is_own(weights):
        return
    if (checkpoint / _FOLDER).resolve() != weights.resolve():
        (checkpoint / CONFIG_FILE).unlink(missing_ok=True)
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
    if not is_encoder_folder(folder) or read_encoder_card(folder).name != inputs.encoder:
        return None
    return folder if read_weights_digest(folder) == inputs.encoder_digest else None


def seen_by_encoder(weights: Path | None) -> tuple[TrainedSection, ...]:
    """Sections that an encoder was trained on; none of one that has no folder.

    Parameters
    ----------
    weights : Path or None
        Where its weights are read from.

    Raises
    ------
    EncoderError, CheckpointError
        If its folder is damaged or does not say.
    """
    if weights is None or not is_own(weights):
        return ()
    return from_card({TRAINED_ON: read_trained_on(weights)}, where=weights)
