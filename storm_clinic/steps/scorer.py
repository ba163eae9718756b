"""A locked model as a function of one patient, or of many at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storm_clinic.bundle import Bundle
from storm_clinic.errors import ContractMismatch, InputError
from storm_clinic.features.contract import FeatureContract
from storm_clinic.features.slide_features import SlideFeatures
from storm_clinic.files import Workspace
from storm_clinic.heads.bags import Bags
from storm_clinic.heads.contract import FittedModel, PatientData
from storm_clinic.steps.scorable_model import ScorableModel, load_scorable
from storm_clinic.steps.score_distribution import Distribution, compare_with_development
from storm_clinic.steps.score_inputs import Slide, bags_of, missing_inputs, places_of
from storm_clinic.study import FROM_STORM

Floats = NDArray[np.float64]

NO_SPREAD = "one model; no spread"
_LABELS = {2: ("low", "high"), 3: ("low", "intermediate", "high")}


@dataclass(frozen=True)
class Score:
    """What a model says of one patient.

    Attributes
    ----------
    risk : float
        Higher is worse; on the model's own scale.
    probabilities : dict of str to float
        ``risk_at_<months>m`` or ``p_<class>``.
    risk_group : int
        0 is the lowest, by thresholds that were fixed on development data.
    risk_group_label : str
        E.g. ``low``, ``intermediate``, ``high``.
    spread_note : str
        Why there is no interval: a bundle holds one fit of a model, from which none can be had.
    out_of_distribution : bool or None
        Whether the patient is unlike those of development; None where something that the model
        sees could not be compared, and nothing else is unlike.
    out_of_distribution_reason : str
        In what, or what was not compared.
    missing_inputs : tuple of str
        What the model would have used and this patient lacks.
    n_tiles : int
    notices : tuple of str
        What whoever reads the risk has to know of the model: not approved, retired, archived.
    model, state, bundle_digest : str
        Which model, exactly.
    """

    risk: float
    probabilities: Mapping[str, float]
    risk_group: int
    risk_group_label: str
    spread_note: str
    out_of_distribution: bool | None
    out_of_distribution_reason: str
    missing_inputs: tuple[str, ...]
    n_tiles: int
    notices: tuple[str, ...]
    model: str
    state: str
    bundle_digest: str


@dataclass(frozen=True, eq=False)
class Scored:
    """What a model says of some patients, in their order.

    Attributes
    ----------
    risk : float64 array, shape (n_patients,)
    probabilities : dict of str to float64 array, shape (n_patients,)
    risk_group : int64 array, shape (n_patients,)
    distribution : Distribution
    missing_inputs : tuple of tuple of str
    """

    risk: Floats
    probabilities: Mapping[str, Floats]
    risk_group: NDArray[np.int64]
    distribution: Distribution
    missing_inputs: tuple[tuple[str, ...], ...]


class Scorer:
    """The candidate of a locked model, restored once; call it with a patient's tiles.

    Parameters
    ----------
    model : ScorableModel
        As `Scorer.load` finds it.

    Raises
    ------
    InputError
        If it sees what STORM made of a slide, which is not scored from here.

    Examples
    --------
    >>> scorer = Scorer.load("kirc-pfi@approved")  # doctest: +SKIP
    >>> scorer(tiles, clinical={"age": 61, "stage": "Stage II"}).risk  # doctest: +SKIP
    """

    def __init__(self, model: ScorableModel) -> None:
        self.model = model
        self.inputs = self.bundle.study.model(self.bundle.study.candidate).inputs
        if FROM_STORM.intersection(self.inputs):
            raise InputError(
                "it sees what STORM made of a slide, which cannot be scored in this way yet",
                where=model.reference,
                fix="Declare the patients as a cohort and validate the model on it.",
            )

    @classmethod
    def load(
        cls,
        reference: str | Path,
        *,
        workspace: Workspace | None = None,
        allow_retired: bool = False,
        allow_unapproved: bool = False,
    ) -> Scorer:
        """Find and verify a model; see `load_scorable`.

        Parameters
        ----------
        reference : str or Path
            ``kirc-pfi@approved``, ``kirc-pfi:2``, ``kirc-pfi``, or an archive ``kirc_pfi.zip``.
        workspace : Workspace, optional
            The current folder by default; an archive needs none.
        allow_retired, allow_unapproved : bool
            Accept a retired version; a candidate, or a rejected one.

        Raises
        ------
        RegistryError
            If there is none, it may not score, or a byte of it was changed.
        """
        model = load_scorable(
            reference,
            workspace=workspace or Workspace(),
            allow_retired=allow_retired,
            allow_unapproved=allow_unapproved,
        )
        return cls(model)

    @property
    def bundle(self) -> Bundle:
        """The verified bundle."""
        return self.model.bundle

    @property
    def sees_images(self) -> bool:
        """Whether the model looks at tiles."""
        return "image" in self.inputs

    @property
    def sees_clinical(self) -> bool:
        """Whether the model looks at clinical covariates."""
        return "clinical" in self.inputs

    @property
    def requires_images(self) -> bool:
        """Whether a patient without a tile cannot be scored."""
        return self.sees_images and "image" in self.bundle.study.required

    @cached_property
    def contract(self) -> FeatureContract | None:
        """How the features it learned from were made; None where it sees none."""
        if not self.sees_images:
            return None
        return FeatureContract.from_json(self.bundle.manifest.features, where=self.bundle.folder)

    @property
    def group_labels(self) -> tuple[str, ...]:
        """A name of each risk group, lowest first."""
        n_groups = len(self.bundle.manifest.risk_thresholds[self.bundle.study.candidate]) + 1
        numbered = tuple(f"{at + 1} of {n_groups}" for at in range(n_groups))
        return _LABELS.get(n_groups, numbered)

    @cached_property
    def _fitted(self) -> FittedModel:
        fitted: FittedModel = self.bundle.restore()
        return fitted

    def __call__(
        self,
        bag: Slide | Sequence[Slide] = (),
        *,
        clinical: Mapping[str, Any] | None = None,
        measurements: Mapping[str, float] | None = None,
    ) -> Score:
        """As `score`."""
        return self.score(bag, clinical=clinical, measurements=measurements)

    def score(
        self,
        bag: Slide | Sequence[Slide] = (),
        *,
        clinical: Mapping[str, Any] | None = None,
        measurements: Mapping[str, float] | None = None,
    ) -> Score:
        """Score one patient.

        Parameters
        ----------
        bag : float array (n_tiles, width), SlideFeatures, or a sequence of either
            Tile embeddings of the patient's slides. An array does not say which encoder made it:
            that it is the model's is the caller's word. What a `FeatureStore` reads is checked.
        clinical : dict, optional
            Every covariate of the model; None or NaN where it is unknown.
        measurements : dict, optional
            Columns such as ``rna.TP53``; any may be absent.

        Raises
        ------
        InputError, CohortError
            If an input that the model needs is not given, or a value is not legal.
        ContractMismatch
            If embeddings have another width.
        """
        slides = [bag] if isinstance(bag, SlideFeatures | np.ndarray) else list(bag)
        data = PatientData(
            keys=("patient",),
            bags=self._bags(slides) if self.sees_images else None,
            clinical=self._covariates(clinical) if self.sees_clinical else None,
            tables={
                table.name: table.typed(pd.DataFrame([dict(measurements or {})], index=[0]))
                for table in self.bundle.manifest.measurements
                if table.name in self.inputs
            },
        )
        found = self.predict(data)
        group = int(found.risk_group[0])
        return Score(
            risk=float(found.risk[0]),
            probabilities={name: float(values[0]) for name, values in found.probabilities.items()},
            risk_group=group,
            risk_group_label=self.group_labels[group],
            spread_note=NO_SPREAD,
            out_of_distribution=found.distribution.outside[0],
            out_of_distribution_reason=found.distribution.reasons[0],
            missing_inputs=found.missing_inputs[0],
            n_tiles=0 if data.bags is None else int(data.bags.sizes[0]),
            notices=self.model.notices,
            model=self.model.reference,
            state=self.model.state,
            bundle_digest=self.bundle.digest,
        )

    def predict(self, data: PatientData) -> Scored:
        """Score some patients; what is said of one does not depend on the others."""
        output = self._fitted.predict(data)
        return Scored(
            risk=output.risk,
            probabilities=output.probabilities,
            risk_group=self.bundle.risk_group(self.bundle.study.candidate, output.risk),
            distribution=compare_with_development(self.bundle, self._fitted, data, self.inputs),
            missing_inputs=missing_inputs(data, self.inputs),
        )

    def _bags(self, slides: Sequence[Slide]) -> Bags:
        contract = self.contract
        assert contract is not None
        tiles = [slide.features if isinstance(slide, SlideFeatures) else slide for slide in slides]
        for array in tiles:
            if array.ndim != 2 or array.shape[1] != contract.width:
                raise ContractMismatch(
                    f"tiles of shape {array.shape}; the model takes (n_tiles, {contract.width})",
                    where="bag",
                    fix=f"Give embeddings of {contract.encoder}.",
                )
            if not np.isfinite(array).all():
                raise InputError("holds NaN or infinity", where="bag")
        if not sum(map(len, tiles)) and self.requires_images:
            raise InputError("holds no tile, and the model needs some", where="bag")
        return bags_of([(tiles, places_of(slides))], contract)

    def _covariates(self, clinical: Mapping[str, Any] | None) -> pd.DataFrame | None:
        if clinical is None:
            names = ", ".join(column.name for column in self.bundle.manifest.clinical)
            raise InputError(
                f"the model sees {names}, and no covariate was given",
                where="clinical",
                fix="Give clinical={...}, with None where a value is unknown.",
            )
        row = pd.DataFrame({name: pd.Series([value]) for name, value in clinical.items()})
        return self.bundle.manifest.clinical_table(row)
