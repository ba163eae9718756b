"""The tile encoder that was trained with a network, kept in the folder of its checkpoint.

It is written before the network. While it is exchanged there is no checkpoint: a configuration that
is there always finds its own encoder, or one that it names by digest and that is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from storm_clinic.encoders.encoder_folder import (
    copy_encoder,
    encoder_folder,
    read_encoder_card,
    read_trained_on,
    read_weights_digest,
    write_encoder,
)
from storm_clinic.errors import EncoderError
from storm_clinic.storm.checkpoint import CONFIG_FILE, Inputs
from storm_clinic.storm.image_encoder import TrainableEncoder
from storm_clinic.storm.trained_on import TRAINED_ON, TrainedSection, from_card, to_card

_FOLDER = "encoder"


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


def pass_on_encoder(weights: Path | None, checkpoint: Path, digest: str) -> None:
    """Copy an encoder's folder to a checkpoint that is made on its embeddings.

    Nothing is copied of an encoder that has no folder. The checkpoint that was there is taken away.

    Parameters
    ----------
    weights : Path or None
        Where the encoder was read from.
    checkpoint : Path
        Folder of the checkpoint.
    digest : str
        Of the weights that were read.

    Raises
    ------
    EncoderError
        If its weights were changed or exchanged since.
    """
    folder = encoder_folder(weights)
    if folder is None:
        return
    _require_same(folder, digest)
    if (checkpoint / _FOLDER).resolve() != folder.resolve():
        (checkpoint / CONFIG_FILE).unlink(missing_ok=True)
        copy_encoder(folder, checkpoint / _FOLDER)


def own_encoder(checkpoint: Path, inputs: Inputs) -> Path | None:
    """The folder of the encoder that came with a checkpoint; None where it is the catalogue's.

    An encoder of another name that an earlier checkpoint left in the folder is of no account.

    Raises
    ------
    EncoderError
        If the folder is damaged, or holds an encoder of that name with other weights.
    """
    folder = checkpoint / _FOLDER
    if encoder_folder(folder) is None or read_encoder_card(folder).name != inputs.encoder:
        return None
    _require_same(folder, inputs.encoder_digest)
    return folder


def seen_by_encoder(weights: Path | None, digest: str) -> tuple[TrainedSection, ...]:
    """Sections that an encoder was trained on; none of one that has no folder.

    Parameters
    ----------
    weights : Path or None
        Where the encoder was read from.
    digest : str
        Of the weights that were read.

    Raises
    ------
    EncoderError, CheckpointError
        If its folder is damaged, does not say, or holds other weights by now.
    """
    folder = encoder_folder(weights)
    if folder is None:
        return ()
    _require_same(folder, digest)
    return from_card({TRAINED_ON: read_trained_on(folder)}, where=folder)


def _require_same(folder: Path, digest: str) -> None:
    found = read_weights_digest(folder)
    if found != digest:
        raise EncoderError(
            f"holds weights of digest {found}, not {digest}",
            where=folder,
            fix="It was exchanged: use a checkpoint and an encoder that were made together.",
        )
