"""A locked model as a function of one patient, or of many at once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from storm_clinic.bundle import Bundle
from storm_clinic.errors import InputError
from storm_clinic.features.contract import FeatureContract
from storm_clinic.files import Workspace
from storm_clinic.heads.bags import Bags
from storm_clinic.heads.contract import FittedModel, PatientData
from storm_clinic.heads.design_head import DesignModel
from storm_clinic.heads.network_head import NetworkModel
from storm_clinic.steps.scorable_model import ScorableModel, load_scorable
from storm_clinic.steps.score_arrays import (
    Expression,
    GeneTiles,
    Tiles,
    expression_row,
    gene_bags,
    patient_bags,
)
from storm_clinic.steps.score_distribution import compare_with_development
from storm_clinic.steps.score_inputs import missing_inputs
from storm_clinic.steps.score_result import NO_SPREAD, Score, Scored
from storm_clinic.study import FROM_STORM, IMPUTED, VIRTUAL

_LABELS = {2: ("low", "high"), 3: ("low", "intermediate", "high")}


class Scorer:
    """The candidate of a locked model, restored once; call it with a patient's tiles.

    Parameters
    ----------
    model : ScorableModel
        As `Scorer.load` finds it.

    Examples
    --------
    >>> scorer = Scorer.load("kirc-pfi@approved")  # doctest: +SKIP
    >>> scorer(tiles, clinical={"age": 61, "stage": "Stage II"}).risk  # doctest: +SKIP
    """

    def __init__(self, model: ScorableModel) -> None:
        self.model = model
        self.inputs = self.bundle.study.model(self.bundle.study.candidate).inputs

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
    def storm_inputs(self) -> frozenset[str]:
        """What the model sees that STORM made of slides: inputs of a study, possibly none."""
        return FROM_STORM.intersection(self.inputs)

    @property
    def requires_storm(self) -> bool:
        """Whether a patient without a STORM file cannot be scored."""
        return not self.storm_inputs.isdisjoint(self.bundle.study.required)

    @cached_property
    def storm_contract(self) -> FeatureContract | None:
        """How the STORM files it learned from were made; None where it sees none."""
        if not self.storm_inputs:
            return None
        return FeatureContract.from_json(self.bundle.manifest.storm, where=self.bundle.folder)

    @cached_property
    def virtual_genes(self) -> tuple[str, ...]:
        """Genes of ``virtual_expression`` in the model's order; empty where it sees none.

        Raises
        ------
        InputError
            If neither bundle nor model says them.
        """
        if VIRTUAL not in self.inputs:
            return ()
        if (declared := self.bundle.manifest.storm_input) is not None:
            return declared.evident
        # A bundle from before they were declared: the model itself remembers.
        if isinstance(self._fitted, DesignModel):
            return self._fitted.design.columns[VIRTUAL]
        if isinstance(self._fitted, NetworkModel):
            return self._fitted.inputs.tiles[VIRTUAL].columns
        raise InputError(
            f"does not say which genes its {VIRTUAL} has",
            where=self.model.reference,
            fix="Train it anew with this version.",
        )

    @property
    def imputed_genes(self) -> tuple[str, ...]:
        """Genes of ``imputed_expression`` in the model's order; empty where it sees none."""
        found = [t.columns for t in self.bundle.manifest.measurements if t.name == IMPUTED]
        return found[0] if found and IMPUTED in self.inputs else ()

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

    def score(
        self,
        bag: Tiles = (),
        *,
        clinical: Mapping[str, Any] | None = None,
        measurements: Mapping[str, float] | None = None,
        storm: Tiles = (),
        virtual_expression: GeneTiles = (),
        imputed_expression: Expression | None = None,
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
        storm : float array (n_tiles, width), SlideFeatures, or a sequence of either
            The checkpoint's embeddings of tiles, as `StormStore.read` gives them of each slide.
        virtual_expression : array, DataFrame (n_tiles, n_genes), or a sequence of either
            Imputed expression of tiles, log1p of counts per 10,000, of `virtual_genes` in their
            order; a frame's columns are held to them.
        imputed_expression : dict or Series by gene, or float array (n_genes,), optional
            Imputed expression of the patient: the mean over slides by their tiles, of
            `imputed_genes`.

        Raises
        ------
        InputError, CohortError
            If an input that the model needs is not given, one that it does not see is, or a value
            is not legal.
        ContractMismatch
            If embeddings have another width, or genes are others or in another order.
        """
        self._refuse_unseen(
            {"storm": storm, VIRTUAL: virtual_expression, IMPUTED: imputed_expression}
        )
        data = PatientData(
            keys=("patient",),
            bags=self._bags(bag),
            clinical=self._covariates(clinical) if self.sees_clinical else None,
            storm=self._storm_bags(storm),
            virtual_expression=self._gene_bags(virtual_expression),
            tables={
                table.name: expression_row(imputed_expression, table)
                if table.name == IMPUTED
                else table.typed(pd.DataFrame([dict(measurements or {})], index=[0]))
                for table in self.bundle.manifest.measurements
                if table.name in self.inputs
            },
        )
        self._require_expression(data)
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
            n_storm_tiles=max(
                (int(bags.sizes[0]) for name, bags in data.all_tiles.items() if name != "image"),
                default=0,
            ),
            notices=self.model.notices,
            model=self.model.reference,
            state=self.model.state,
            bundle_digest=self.bundle.digest,
        )

    __call__ = score

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

    def _bags(self, tiles: Tiles) -> Bags | None:
        contract = self.contract
        if contract is None:
            return None
        return patient_bags(
            tiles,
            where="bag",
            width=contract.width,
            made_by=contract.encoder,
            needed=self.requires_images,
            dtype=contract.dtype,
        )

    def _storm_bags(self, tiles: Tiles) -> Bags | None:
        contract = self.storm_contract
        if contract is None or "storm" not in self.inputs:
            return None
        return patient_bags(
            tiles,
            where="storm",
            width=contract.width,
            made_by=f"the checkpoint {contract.encoder}",
            needed=self._needs("storm"),
        )

    def _gene_bags(self, tiles: GeneTiles) -> Bags | None:
        contract = self.storm_contract
        if contract is None or VIRTUAL not in self.inputs:
            return None
        return gene_bags(
            tiles, self.virtual_genes, checkpoint=contract, needed=self._needs(VIRTUAL)
        )

    def _needs(self, name: str) -> bool:
        return name in self.bundle.study.required

    def _require_expression(self, data: PatientData) -> None:
        if IMPUTED in self.inputs and self._needs(IMPUTED) and not data.present(IMPUTED)[0]:
            raise InputError("is not given, and the model needs it", where=IMPUTED)

    def _refuse_unseen(self, given: Mapping[str, Any]) -> None:
        for name, value in given.items():
            is_given = value is not None and not (isinstance(value, tuple | list) and not value)
            if is_given and name not in self.inputs:
                raise InputError(
                    f"the model does not see it; it sees {', '.join(self.inputs)}", where=name
                )

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
