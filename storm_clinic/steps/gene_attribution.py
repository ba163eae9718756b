"""Which imputed genes the candidate's risks come from, fold by fold of its cross-validation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storm_clinic.errors import InputError
from storm_clinic.explanations.attribution import BASELINE, TOLERANCE, attribute, is_available
from storm_clinic.explanations.gene_stability import direction, importance, stability
from storm_clinic.files import write_json
from storm_clinic.heads.contract import PatientData
from storm_clinic.heads.network_head import NetworkModel
from storm_clinic.heads.out_of_fold import OutOfFold
from storm_clinic.steps.study_patients import Development
from storm_clinic.strict_yaml import parse
from storm_clinic.study import VIRTUAL, ModelSpec
from storm_clinic.validation.analyses import Analyses
from storm_clinic.validation.attributed_genes import AttributedGene, GeneAttributions, InputShare

ATTRIBUTIONS = "attributions.json"

_MOST_PATIENTS = 16  # a cohort and fold; a slide of 15,000 tiles takes seconds
_N_TOP, _N_SHOWN = 10, 20
_EVIDENCE = ("heldout_r", "heldout_r_lower", "heldout_r_upper")

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def attribute_genes(
    spec: ModelSpec, development: Development, result: OutOfFold
) -> tuple[GeneAttributions, ...]:
    """Attribute out-of-fold risks to genes, one record a development cohort.

    Models of the first repeat explain patients whom they never saw, at most 16 a cohort and fold,
    evenly spaced in the order of the patients.

    Parameters
    ----------
    spec : ModelSpec
        The model; it sees imputed genes of tiles.
    development : Development
        All its patients.
    result : OutOfFold
        Its cross-validation, with the models of all folds.

    Returns
    -------
    tuple of GeneAttributions
        Empty where the model is no network.
    """
    models = [record.fit.model for record in result.records if record.repeat == 0]
    networks = [model for model in models if isinstance(model, NetworkModel)]
    if len(networks) < len(models):
        return ()
    fold, cohorts = result.fold[0], np.array(development.cohorts, dtype=object)
    has = development.data.present(VIRTUAL)
    found = []
    for part in development.parts:
        name, virtual = part.patients.cohort.name, part.patients.virtual
        assert virtual is not None  # a model sees it
        if not is_available():
            note = "captum is not installed (pip install 'storm-clinic[models]')"
            found.append(GeneAttributions(cohort=name, model=spec.name, note=note))
            continue
        folds = [
            _Fold.of(model, development.data, _some((fold == k) & (cohorts == name) & has))
            for k, model in enumerate(networks)
        ]
        found.append(_record(name, spec.name, virtual.evidence, folds))
    return tuple(found)


def write_attributions(folder: Path, found: tuple[GeneAttributions, ...]) -> None:
    """Write ``attributions.json`` in a folder, if there are any."""
    if found:
        document = Analyses(attributions=found).model_dump(mode="json")
        write_json(folder / ATTRIBUTIONS, document)


def read_attributions(folder: Path) -> tuple[GeneAttributions, ...]:
    """Read what `write_attributions` wrote.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    path = folder / ATTRIBUTIONS
    if not path.exists():
        return ()
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read: {error}", where=path) from error
    return parse(Analyses, document, where=str(path), error=InputError).attributions


@dataclass(frozen=True, eq=False)
class _Fold:
    """What one fold's model says of patients whom it never saw.

    Attributes
    ----------
    shares, moved : float64 arrays, shape (n_patients, n_genes)
        What each gene adds to the risk, and how far its mean lies above the baseline.
    inputs : dict of str to float64 array, shape (n_patients,)
        What each input adds.
    n_incomplete : int
        Patients left out, as their shares do not sum to the change of the risk.
    """

    shares: Floats
    moved: Floats
    inputs: dict[str, Floats]
    n_incomplete: int

    @classmethod
    def of(cls, model: NetworkModel, data: PatientData, patients: Ints) -> _Fold:
        scale = model.inputs.tiles[VIRTUAL]
        tried = [attribute(model, data.take(patients[[at]])) for at in range(len(patients))]
        whole = [at for at, found in enumerate(tried) if found.complete]
        kept = [tried[at] for at in whole]
        nothing = np.empty((0, len(scale.columns)))
        rows = [found.by_column(VIRTUAL)[None] for found in kept]
        means = data.tiles(VIRTUAL).take(patients[whole]).pooled_mean()
        return cls(
            shares=np.concatenate([nothing, *rows]),
            moved=(means - scale.centre) / scale.scale,
            inputs={
                name: np.array([found.by_input.get(name, 0.0) for found in kept])
                for name in model.inputs.tiles
            },
            n_incomplete=len(tried) - len(kept),
        )


def _some(chosen: NDArray[np.bool_]) -> Ints:
    """Positions of at most 16 of the chosen patients, evenly spaced."""
    at = np.flatnonzero(chosen)
    if len(at) <= _MOST_PATIENTS:
        return at
    return at[np.linspace(0, len(at) - 1, _MOST_PATIENTS).round().astype(np.int64)]


def _record(
    cohort: str, model: str, evidence: pd.DataFrame, folds: Sequence[_Fold]
) -> GeneAttributions:
    """Genes of one cohort with their stability over the folds that explain somebody in it."""
    n_incomplete = sum(fold.n_incomplete for fold in folds)
    used = [fold for fold in folds if len(fold.shares)]
    if not used:
        return GeneAttributions(
            cohort=cohort,
            model=model,
            n_incomplete=n_incomplete,
            note="no patient with imputed genes could be explained completely",
        )
    n_genes = len(evidence)
    n_top = min(_N_TOP, max(1, n_genes // 4))
    by_fold = np.stack([importance(fold.shares) for fold in used])
    signs = np.stack([direction(fold.shares, fold.moved) for fold in used])
    agreed = stability(by_fold, n_top)
    mean = by_fold.mean(axis=0)
    order = np.argsort(-mean, kind="stable")[:_N_SHOWN]
    notes = []
    if not by_fold.any(axis=1).all():
        n_blind = int((~by_fold.any(axis=1)).sum())
        notes.append(f"in {n_blind} of {len(used)} folds the model does not look at genes")
    return GeneAttributions(
        cohort=cohort,
        model=model,
        n_patients=sum(len(fold.shares) for fold in used),
        n_incomplete=n_incomplete,
        n_folds=len(used),
        n_genes=n_genes,
        n_top=n_top,
        genes=tuple(
            AttributedGene(
                gene=str(evidence.index[g]),
                importance=float(mean[g]),
                direction=_in_words(signs[:, g]),
                in_top=float(agreed.in_top[g]),
                **{name: _known(evidence[name].iloc[g]) for name in _EVIDENCE},
            )
            for g in order
        ),
        inputs=_by_input(used),
        rank_correlation=agreed.rank_correlation,
        method=(
            f"Integrated Gradients of the out-of-fold risk (captum) against {BASELINE}; covariates "
            "and tables stay the patient's own. Shares must sum to the change of the risk within "
            f"{TOLERANCE:.0%}, or the patient is left out. At most {_MOST_PATIENTS} patients a fold"
        ),
        note="; ".join(notes),
    )


def _by_input(folds: Sequence[_Fold]) -> tuple[InputShare, ...]:
    """Mean size of what each input adds to a risk, as a part of all; mean over folds."""
    parts = []
    for fold in folds:
        sizes = np.array([np.abs(values).mean() for values in fold.inputs.values()])
        parts.append(sizes / sizes.sum() if sizes.sum() > 0 else np.zeros(len(sizes)))
    means = np.mean(parts, axis=0)
    return tuple(
        InputShare(name=name, share=min(float(share), 1.0))
        for name, share in zip(folds[0].inputs, means, strict=True)
    )


def _in_words(signs: NDArray[np.int64]) -> Literal["higher", "lower", "differs"]:
    if (signs > 0).all():
        return "higher"
    return "lower" if (signs < 0).all() else "differs"


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
