"""A bundle as an MLflow model: loaded by name of this module, never by unpickling.

Scoring through MLflow takes a table with one row a patient: the clinical columns of the manifest
(numbers as float64, levels as text, unknown values empty), where a model reads slides, a column
``feature_files`` with a list of paths to that patient's feature files, and where it reads
measurements, columns such as ``rna.TP53``, any of which may be absent or empty. What STORM made is
not read in this way; score such a model with ``storm-clinic score``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from storm_clinic.bundle.folder import Bundle, read_bundle
from storm_clinic.errors import InputError
from storm_clinic.features.contract import FeatureContract
from storm_clinic.features.store import FeatureStore
from storm_clinic.study import FROM_STORM, IMPUTED
from storm_clinic.tracking.client import import_mlflow, mlflow_errors

FEATURE_FILES = "feature_files"
BUNDLE_FOLDER = "bundle"


def write_mlflow_model(bundle: Bundle, folder: Path, *, model_id: str, run_id: str) -> None:
    """Write an MLflow model folder around a bundle.

    Parameters
    ----------
    bundle : Bundle
        Copied to ``data/bundle`` of the folder.
    folder : Path
        Must not exist.
    model_id, run_id : str
        MLflow's ids of the logged model and of the run that made it.

    Raises
    ------
    StorageError
        If MLflow refuses.
    """
    mlflow = import_mlflow()
    with mlflow_errors(folder), tempfile.TemporaryDirectory() as scratch:
        # The folder's name becomes part of the model; let it not be an arbitrary one.
        named = Path(scratch) / BUNDLE_FOLDER
        named.symlink_to(bundle.folder.resolve(), target_is_directory=True)
        mlflow.pyfunc.save_model(
            folder,
            loader_module="storm_clinic.bundle.pyfunc",
            data_path=named,
            mlflow_model=mlflow.models.Model(model_id=model_id, run_id=run_id),
            signature=_signature(bundle),
            pip_requirements=requirements(bundle),
        )


def requirements(bundle: Bundle) -> list[str]:
    """Pip requirements that bring back what made the weights."""
    version = bundle.manifest.code["version"]
    pins = [f"{name}=={version}" for name, version in bundle.manifest.packages.items()]
    return [f"storm-clinic[models]=={version}", *pins]


def _signature(bundle: Bundle) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array

    kinds = {"continuous": DataType.double, "ordinal": DataType.string, "nominal": DataType.string}
    columns: list[Any] = [
        ColSpec(kinds[column.kind], column.name) for column in bundle.manifest.clinical
    ]
    if bundle.manifest.features is not None:
        columns.append(ColSpec(Array(DataType.string), FEATURE_FILES))
    columns += [
        ColSpec(DataType.double, f"{table.name}.{column}", required=False)
        for table in bundle.manifest.measurements
        if table.name != IMPUTED
        for column in table.columns
    ]
    if not columns:
        # Where models see STORM alone no table can be scored, which `predict` says; MLflow still
        # wants to hear of a column.
        columns = [ColSpec(DataType.string, "patient_id", required=False)]
    outputs: list[Any] = [
        ColSpec(DataType.double, name)
        for name in ("risk", *bundle.manifest.outcome.probability_columns)
    ]
    outputs += [ColSpec(DataType.long, "risk_group"), ColSpec(DataType.string, "notes")]
    model = ParamSpec("model", DataType.string, bundle.study.candidate)
    return ModelSignature(Schema(columns), Schema(outputs), ParamSchema([model]))


class BundleScorer:
    """What `mlflow.pyfunc.load_model` gives for a bundle.

    Parameters
    ----------
    bundle : Bundle
        Verified when it was read.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def predict(self, table: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Score one patient a row, in order.

        Parameters
        ----------
        table : DataFrame
            See the top of this module.
        params : dict, optional
            ``model``: a comparator of the bundle instead of the candidate.

        Returns
        -------
        DataFrame
            ``risk``, probabilities by horizon or class, ``risk_group`` (0 is lowest), ``notes``.

        Raises
        ------
        CohortError, InputError
            If a column is missing or a value is not legal.
        ContractMismatch
            If feature files were made in another way than the model's; names both values.
        """
        from storm_clinic.heads.contract import PatientData

        name = (params or {}).get("model") or self._bundle.study.candidate
        model = self._bundle.restore(name)
        inputs = self._bundle.study.model(name).inputs
        manifest = self._bundle.manifest
        if FROM_STORM.intersection(inputs):
            raise InputError(
                f"{name!r} sees what STORM made of a slide, which a table cannot hold",
                where="table to score",
                fix="Score their slides or stores with storm-clinic score.",
            )
        data = PatientData(
            keys=tuple(str(row) for row in range(len(table))),
            bags=self._bags(table) if "image" in inputs else None,
            clinical=manifest.clinical_table(table) if "clinical" in inputs else None,
            tables={
                measured.name: measured.typed(table)
                for measured in manifest.measurements
                if measured.name in inputs
            },
        )
        output = model.predict(data)
        columns = {"risk": output.risk, **output.probabilities}
        columns["risk_group"] = self._bundle.risk_group(name, output.risk)
        columns["notes"] = "; ".join(output.notes)
        return pd.DataFrame(columns, index=table.index)

    def _bags(self, table: pd.DataFrame) -> Any:
        from storm_clinic.heads.bags import Bags

        if FEATURE_FILES not in table:
            raise InputError(
                f"no column {FEATURE_FILES}",
                where="table to score",
                fix="Give each patient the list of paths of their feature files.",
            )
        stores: dict[Path, FeatureStore] = {}
        rows = [
            np.concatenate([self._tiles(Path(path), stores) for path in _paths(cell, row)])
            for row, cell in enumerate(table[FEATURE_FILES])
        ]
        return Bags.from_arrays(rows)

    def _tiles(self, path: Path, stores: dict[Path, FeatureStore]) -> Any:
        if path.parent not in stores:
            store = FeatureStore.open(path.parent)
            learned_on = FeatureContract.from_json(self._bundle.manifest.features, where="bundle")
            store.contract.require_same(learned_on, where=path.parent)
            stores[path.parent] = store
        return stores[path.parent].read(path.stem).features


def _paths(cell: Any, row: int) -> Sequence[str]:
    if isinstance(cell, list | tuple | np.ndarray) and len(cell):
        return [str(path) for path in cell]
    raise InputError(
        f"row {row}: {cell!r} is no list of paths",
        where=f"column {FEATURE_FILES!r}",
        fix="Leave out patients without slides; the model cannot score them.",
    )


def _load_pyfunc(path: str) -> BundleScorer:
    """Called by MLflow with the bundle's folder."""
    return BundleScorer(read_bundle(Path(path)))
