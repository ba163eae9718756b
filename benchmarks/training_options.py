"""Do the options of network training earn their place? One change at a time, on kidney cancer.

    STORM_CLINIC_DATA=/path/to/data python benchmarks/training_options.py [--repeats 2]

Attention on TCGA-KIRC, progression-free interval up to 60 months, five folds of whole sites. Each
row changes one option of the first row's model. C is averaged over folds and repeats; beside it the
difference from the first row with its standard error over folds and repeats (paired: same folds,
same seeds), the held-out log-likelihood of the inner folds per event, and seconds relative to the
first row's, of one interleaved run.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from storm_clinic.cohort.outcome import Survival, stratum
from storm_clinic.cohort.split import make_splits
from storm_clinic.features.declaration import Declaration
from storm_clinic.features.interop import import_slides
from storm_clinic.files import Workspace
from storm_clinic.heads.fit import cross_validate
from storm_clinic.metrics.discrimination import concordance
from storm_clinic.registry.identity import load_keys
from storm_clinic.steps.study_patients import Development, load_development
from storm_clinic.study import ModelSpec, Study

REPOSITORY = Path(__file__).resolve().parents[1]
TAU = 60.0
IMAGE, BOTH = ("image",), ("image", "clinical")
ROWS: tuple[tuple[str, tuple[str, ...], dict[str, bool | int | float | str]], ...] = (
    ("attention, image", IMAGE, {}),
    ("most_tiles 16", IMAGE, {"most_tiles": 16}),
    ("most_tiles 32", IMAGE, {"most_tiles": 32}),
    ("noise 0.1", IMAGE, {"noise": 0.1}),
    ("noise 0.5", IMAGE, {"noise": 0.5}),
    ("dropout 0.5", IMAGE, {"dropout": 0.5}),
    ("precision bf16", IMAGE, {"precision": "bf16"}),
    ("clip 0.1", IMAGE, {"clip": 0.1}),
    ("ties breslow", IMAGE, {"ties": "breslow"}),
    ("with age and stage", BOTH, {}),
    ("  modality_dropout 0", BOTH, {"modality_dropout": 0.0}),
    ("  modality_dropout 0.3", BOTH, {"modality_dropout": 0.3}),
    ("  fusion early", BOTH, {"fusion": "early"}),
    ("  fusion cross", BOTH, {"fusion": "cross"}),
)


def kidney_cancer(folder: Path) -> Development:
    """The cohort as a study sees it, in a workspace that is thrown away."""
    data = Path(os.environ["STORM_CLINIC_DATA"])
    (folder / "cohorts").mkdir()
    (folder / "cohorts" / "tcga_kirc").symlink_to(REPOSITORY / "cohorts" / "tcga_kirc")
    os.environ["STORM_CLINIC_SECRET_FILE"] = str(folder.parent / f"{folder.name}.secret")
    workspace = Workspace(folder)
    declaration = Declaration(encoder="hipt-vit4k", geometry_unknown=True)
    store = workspace.store("tcga_kirc", "hipt-vit4k")
    import_slides([data / "tcga_kirc" / "features"], store, declaration)
    study = Study.read(REPOSITORY / "pipelines" / "kirc_pfi.yaml")
    return load_development(study, workspace=workspace, keys=load_keys(workspace))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "w").mkdir()
        report(kidney_cancer(Path(scratch) / "w"), arguments.repeats)


def report(development: Development, repeats: int) -> None:
    outcome, data = development.outcome, development.data
    assert isinstance(outcome, Survival)
    sites = np.array(development.sites, dtype=object)
    fold = make_splits(
        data.keys, stratum(outcome), sites, folds=5, repeats=repeats, seed=20261123
    ).fold
    found: dict[str, list[float]] = {name: [] for name, _, _ in ROWS}
    inner: dict[str, list[float]] = {name: [] for name, _, _ in ROWS}
    seconds = dict.fromkeys(found, 0.0)
    for repeat in range(repeats):  # rows take turns, so that a busy machine slows them alike
        for name, inputs, options in ROWS:
            spec = ModelSpec(name="m", head="attention-cox", inputs=inputs, options=options)
            began = time.perf_counter()
            result = cross_validate(
                spec, data, outcome, fold[[repeat]], groups=sites, seed=20261123 + repeat
            )
            seconds[name] += time.perf_counter() - began
            for record in result.records:
                at = np.flatnonzero(fold[repeat] == record.fold)
                risk = result.risk[0, at]
                found[name].append(concordance(outcome.take(at), risk, tau_months=TAU).value)
                inner[name].append(max(item.score for item in record.fit.inner))
    print(f"{platform.machine()}, torch {torch.__version__}, {repeats} repeats of 5 folds")
    print(f"{'':22s} {'C':>6s} {'difference (SE)':>18s} {'held out':>9s} {'time':>6s}")
    base = ROWS[0][0]
    for name, inputs, _ in ROWS:
        reference = base if inputs == IMAGE else "with age and stage"
        gain = np.array(found[name]) - np.array(found[reference])
        error = gain.std(ddof=1) / np.sqrt(len(gain))
        print(
            f"{name:22s} {np.mean(found[name]):6.3f} {gain.mean():+9.3f} ({error:.3f}) "
            f"{np.mean(inner[name]):9.3f} {seconds[name] / seconds[base]:5.2f}x"
        )


if __name__ == "__main__":
    main()
