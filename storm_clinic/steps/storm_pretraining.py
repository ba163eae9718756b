"""``storm pretrain``: from a YAML and paired sections to a checkpoint of STORM."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from storm_clinic.encoders.hub import load_encoder
from storm_clinic.errors import EncoderError, InputError
from storm_clinic.files import Workspace, digest_value, write_json, write_text
from storm_clinic.licence_terms import joined
from storm_clinic.progress import Progress, silent
from storm_clinic.steps.storm_pictures import draw_curve, draw_reconstruction
from storm_clinic.steps.storm_shards import (
    TrainingSections,
    domain_of_encoder,
    prepare_shards,
)
from storm_clinic.storm.checkpoint import Inputs, save_checkpoint
from storm_clinic.storm.image_encoder import TrainableEncoder, load_trainable
from storm_clinic.storm.own_encoder import keep_own_encoder, pass_on_encoder
from storm_clinic.storm.pretrain import Point, Pretrained, pretrain
from storm_clinic.storm.pretraining_file import PretrainingFile, read_pretraining
from storm_clinic.storm.processes import joined_processes
from storm_clinic.storm.reconstruction import reconstruct
from storm_clinic.storm.shards import ShardSet, read_shards
from storm_clinic.storm.spot_batches import measure_axes
from storm_clinic.storm.trained_on import TRAINED_ON, to_card
from storm_clinic.tracking import Metric, RunLog, Tracker

STATE, SHARDS = "state.safetensors", "shards"
_TRAINING = "pretrain"


@dataclass(frozen=True)
class PretrainingResult:
    """What a pretraining left.

    Attributes
    ----------
    checkpoint : Path
        Folder for `load_checkpoint`; it states no reliability, which only held-out sections give.
    digest : str
        The checkpoint's.
    run_id : str
        Of MLflow: curve, reconstruction, settings.
    history : list of dict
        See `Pretrained`.
    n_sections, n_patients, n_spots : int
        What was trained on.
    """

    checkpoint: Path
    digest: str
    run_id: str
    history: list[Point]
    n_sections: int
    n_patients: int
    n_spots: int


def pretrain_storm(
    config_path: str | Path,
    *,
    workspace: Workspace | None = None,
    resume: bool = True,
    device: str = "auto",
    progress: Progress | None = None,
) -> PretrainingResult | None:
    """Pretrain STORM as a YAML says.

    Everything lies under ``storm/`` of the workspace: ``spots/`` holds embeddings, which other
    pretrainings share; ``<name>/`` shards, which are written again only where what they are made of
    has changed, the training's state and the checkpoint. Started by ``torchrun``, the processes
    train together; the first one embeds, writes and logs. Where the image encoder is trained too,
    the checkpoint's folder holds it (`storm_clinic.storm.own_encoder`), named ``<name>-encoder``.

    Parameters
    ----------
    config_path : str or Path
        Such as ``pipelines/storm_pretrain_her2st.yaml``; relative to the workspace.
    workspace : Workspace, optional
        The current folder by default.
    resume : bool
        Go on where an interrupted training of the same settings and data stands; False begins
        anew.
    device : str
        "auto", "cpu", "cuda".
    progress : callable, optional
        Called with what is done, how much of it, and of how much.

    Returns
    -------
    PretrainingResult or None
        None in processes that are not the first.

    Raises
    ------
    InputError, SectionError, EncoderError, TrainingError, StorageError
        Naming what is wrong, where, and what to do.
    """
    workspace, progress = workspace or Workspace(), progress or silent
    asked = read_pretraining(workspace.path(config_path))
    folder = workspace.root / "storm" / asked.name
    _require_other_encoder(asked, workspace, folder)
    with joined_processes(device) as processes, ExitStack() as stack:
        facts: TrainingSections | None = None
        if processes.is_first:
            facts = prepare_shards(asked, workspace, folder / SHARDS, device, progress)
        processes.wait()
        shards = read_shards(folder / SHARDS)
        config = asked.config(
            image_width=shards.image_width,
            n_genes=len(shards.vocabulary),
            novae_width=shards.novae_width,
        )
        if not resume and processes.is_first:
            (folder / STATE).unlink(missing_ok=True)
        processes.wait()
        run: RunLog | None = None
        if processes.is_first:
            run = stack.enter_context(_open_run(asked, shards, workspace, resume=resume))
        encoder = _encoder_to_train(asked, workspace, shards)
        made = pretrain(
            config,
            shards,
            asked.plan,
            processes,
            axes=measure_axes(shards, config.image_axes),
            encoder=encoder,
            state=folder / STATE,
            on_point=None if run is None else _logging(run),
            on_step=lambda done, total: progress(_TRAINING, done, total),
        )
        if run is None or facts is None:
            return None
        checkpoint = folder / "checkpoint"
        sees = Inputs(
            encoder=shards.encoder,
            encoder_digest=shards.encoder_digest,
            tile_um=shards.tile_um,
            side=asked.network.side,
        )
        if made.encoder is not None:
            name = f"{asked.name}-encoder"
            weights, own = keep_own_encoder(checkpoint, name, made.encoder, facts.trained_on)
            sees = replace(sees, encoder=name, encoder_digest=own)
            trained = load_encoder(name, weights=weights, device=device)
            domain = domain_of_encoder(asked, trained, workspace, facts.n_sections, progress)
            facts = replace(facts, domain=domain)
        else:
            weights_path = asked.encoder.weights_path(workspace)
            pass_on_encoder(weights_path, checkpoint, shards.encoder_digest)
        digest = _save(asked, shards, made, facts, sees, checkpoint)
        _log_files(run, asked, shards, made, digest)
        return PretrainingResult(
            checkpoint,
            digest,
            run.run_id,
            made.history,
            facts.n_sections,
            facts.n_patients,
            shards.n_spots,
        )


def _require_other_encoder(asked: PretrainingFile, workspace: Workspace, folder: Path) -> None:
    """Refuse to read the weights from where this pretraining writes its own."""
    weights = asked.encoder.weights_path(workspace)
    if weights is not None and weights.resolve().is_relative_to((folder / "checkpoint").resolve()):
        raise InputError(
            "encoder.weights lie in the checkpoint that this pretraining would replace",
            where=weights,
            fix="Give this pretraining another name, or its encoder other weights.",
        )


def _encoder_to_train(
    asked: PretrainingFile, workspace: Workspace, shards: ShardSet
) -> TrainableEncoder | None:
    if asked.train_encoder is None:
        return None
    encoder = load_trainable(
        asked.encoder.name,
        weights=asked.encoder.weights_path(workspace),
        **asked.train_encoder.model_dump(),
    )
    if encoder.start.digest != shards.encoder_digest:
        raise EncoderError(
            "its weights were exchanged since sections were embedded",
            where=f"encoder {asked.encoder.name}",
            fix="Run the same again.",
        )
    return encoder


def _open_run(
    asked: PretrainingFile, shards: ShardSet, workspace: Workspace, *, resume: bool
) -> AbstractContextManager[RunLog]:
    digest = digest_value([asked.digest, shards.digest])
    return Tracker(workspace).start_storm(
        asked.name, kind="pretraining", digest=digest, resume=resume
    )


def _logging(run: RunLog) -> Callable[[Point], None]:
    def log(point: Point) -> None:
        step = int(point["step"])
        run.log_points(Metric(name, value, step) for name, value in point.items() if name != "step")

    return log


def _save(
    asked: PretrainingFile,
    shards: ShardSet,
    made: Pretrained,
    facts: TrainingSections,
    sees: Inputs,
    folder: Path,
) -> str:
    card = {
        "name": asked.name,
        **asked.card.model_dump(),
        "n_sections": facts.n_sections,
        "n_patients": facts.n_patients,
        "n_spots": shards.n_spots,
        "technologies": facts.technologies,
        "settings_digest": asked.digest,
        "shards_digest": shards.digest,
        TRAINED_ON: to_card(facts.trained_on),
    }
    if facts.encoder_licence is not None:
        card["licence"] = joined(asked.card.licence, facts.encoder_licence)
    if asked.novae is not None:
        card["novae"] = {"model": asked.novae.model, "digest": facts.novae_digest}
    if made.encoder is not None:
        card["encoder_trained_from"] = asdict(made.encoder.start)
    return save_checkpoint(
        folder,
        made.model,
        inputs=sees,
        vocabulary=shards.vocabulary,
        domain=facts.domain,
        card=card,
    )


def _log_files(
    run: RunLog, asked: PretrainingFile, shards: ShardSet, made: Pretrained, digest: str
) -> None:
    """Settings, curve and pictures; sections are counted, not named."""
    settings = asked.resolved()
    settings.pop("sections")
    with tempfile.TemporaryDirectory() as scratch:
        files = Path(scratch)
        write_json(files / "settings.json", {**settings, "network": made.model.config.to_json()})
        write_text(files / "curve.csv", pd.DataFrame(made.history).to_csv(index=False))
        draw_curve(made.history, files / "curve.png")
        draw_reconstruction(reconstruct(made, shards), files / "reconstruction.png")
        params = {f"updates.{name}": value for name, value in asked.updates.model_dump().items()}
        params |= {f"masking.{name}": value for name, value in asked.masking.model_dump().items()}
        params |= {"size": asked.network.size, "encoder": asked.encoder.name, "batch": asked.batch}
        params |= {"n_genes": len(shards.vocabulary), "n_spots": shards.n_spots}
        run.log(params=params, tags={"checkpoint_digest": digest}, artifacts=files)
