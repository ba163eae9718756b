"""A small hospital with STORM files, of which one half of the risk can be read. All simulated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from storm_clinic.features.contract import FeatureContract
from storm_clinic.features.slide_features import SlideFeatures
from storm_clinic.features.store import FeatureStore
from storm_clinic.features.storm_contract import StormContract
from storm_clinic.features.storm_writer import ImputedGenes, SlideStorm, write_storm_file
from storm_clinic.files import Workspace
from storm_clinic.study import Study

# Distance from the training data, share of tiles outside, and the warning.
Domain = tuple[float, float, str | None]

WIDTH = 6
# Of the last one nothing is known to be learnt: no model may see it.
GENES = tuple(f"SIM{number:02d}" for number in range(1, 13))
DRIVER, BLIND = "SIM03", "SIM12"
LOWER = np.array([0.3] * 11 + [-0.1], np.float32)
CONTRACT = StormContract(
    checkpoint="simulated-storm",
    checkpoint_digest="c" * 64,
    encoder="toy",
    encoder_digest="e" * 64,
    source_digest="d" * 64,
    width=4,
    mpp=0.5,
    tile_px=224,
    overlap_px=0,
    n_genes=len(GENES),
    genes_digest="f" * 64,
    min_r=None,
    per_tile=True,
)

COHORT = """\
format: 1
cohort: {name}
tables:
  clinical: {{path: clinical.csv, patient_id: patient}}
  slides: {{path: slides.csv, patient_id: patient, slide_id: slide}}
columns:
  age: {{from: age, kind: continuous, unit: years}}
endpoints:
  pfs:
    kind: survival
    time: months
    unit: months
    event: progressed
    codes: {{0: censored, 1: event}}
missing: [""]
origin: {{source: simulated for a test, licence: CC0, simulated: true}}
"""
OPTIONS = "{epochs: 20, learning_rate: 0.02, hidden: 8, attention: 4, dropout: 0.0"
# Layers of attention want smaller steps.
STORM_OPTIONS = "{epochs: 20, learning_rate: 0.005, hidden: 16, attention: 4, dropout: 0.0"
STUDY = f"""\
format: 1
study: storm-head
question: Do imputed genes of tiles add to the image in a simulated hospital?
endpoint: {{name: pfs, horizons_months: [6], tau_months: 18}}
features: {{encoder: toy, storm: simulated-storm}}
development: [west]
require: []
candidate: storm
models:
  - {{name: abmil-image, head: attention-cox, inputs: [image], options: {OPTIONS}}}}}
  - {{name: abmil-genes, head: attention-cox, inputs: [virtual_expression], options: {OPTIONS}}}}}
  - name: late
    head: attention-cox
    inputs: [image, virtual_expression]
    options: {OPTIONS}, fusion: late}}
  - name: storm
    head: storm-cox
    inputs: [image, virtual_expression]
    options: {STORM_OPTIONS}}}
evaluation:
  {{folds: 3, repeats: 1, inner_folds: 2, group: patient, seed: 7, bootstraps: 200, patience: 4}}
"""


def imputed(lower=LOWER, genes=GENES) -> ImputedGenes:
    return ImputedGenes(
        symbols=genes,
        places=np.arange(len(genes)),
        r=lower + np.float32(0.1),
        lower=lower,
        upper=lower + np.float32(0.2),
        how="simulated",
        min_r=None,
        vocabulary_digest="f" * 64,
    )


def write_storm(
    folder: Path,
    slide_id: str,
    values,
    genes: ImputedGenes | None = None,
    domain: Domain | None = None,
    **changed,
):
    """One STORM file with these values of tiles.

    ``domain`` is its distance from the checkpoint's training data, the share of its tiles that lie
    outside, and the warning; None where the checkpoint does not know what it was trained on.
    """
    distance, share, warning = domain or (None, None, None)
    n = len(values)
    slide = SlideStorm(
        slide_id=slide_id,
        spots=values[:, :4],
        slide=np.zeros(4),
        coords=np.column_stack([np.arange(n) * 448, np.zeros(n)]).astype(np.int64),
        source_digest="d" * 64,
        slide_mpp=0.25,
        expression=values.mean(axis=0),
        tiles=[values[:2], values[2:]],
        domain_distance=distance,
        share_outside=share,
        domain_warning=warning,
    )
    contract = replace(CONTRACT, **changed)
    if not contract.per_tile:
        slide = replace(slide, tiles=None)
    folder.mkdir(parents=True, exist_ok=True)
    write_storm_file(folder / f"{slide_id}.h5", slide, contract, genes or imputed())


def study_of(workspace: Workspace) -> Study:
    return Study.read(workspace.pipelines / "study.yaml")


def make_west(workspace: Workspace, n_patients: int = 90) -> Workspace:
    """The hospital ``west`` with a study of it; see `write_hospital`."""
    write_hospital(workspace, "west", n_patients=n_patients, seed=3)
    workspace.pipelines.mkdir()
    (workspace.pipelines / "study.yaml").write_text(STUDY)
    return workspace


def write_hospital(
    workspace: Workspace,
    name: str,
    *,
    n_patients: int,
    seed: int,
    domain_of: Callable[[int], Domain | None] = lambda _: None,
) -> None:
    """A hospital where the image knows one half of the risk and an imputed gene the other.

    In a share of tiles the gene is high; the last one, without evidence, tells all and must not be
    seen. Patient 0 has no slide, of patients 1 and 2 only the image is there, patient 3 has two
    slides. ``domain_of`` says by a patient's number how its slides lie to the checkpoint's
    training.
    """
    rng = np.random.default_rng(seed)
    ages = np.random.default_rng(seed + 1).normal(62, 9, n_patients)  # tell nothing
    folder = workspace.cohorts / name
    folder.mkdir(parents=True)
    store = FeatureStore.create(
        workspace.store(name, "toy"),
        FeatureContract("toy", None, WIDTH, None, None, dtype="float32", provenance="declared"),
    )
    storm = workspace.store(name, "simulated-storm")
    clinical, slides = ["patient,age,months,progressed"], ["patient,slide"]
    for number in range(n_patients):
        seen, hidden = rng.normal(size=2)
        time = rng.exponential(12 * np.exp(-1.5 * (seen + hidden)))
        censored = rng.uniform(6, 36)
        patient = f"{name.upper()}-{number:03d}"
        months = max(min(time, censored), 0.5)
        clinical.append(f"{patient},{ages[number]:.0f},{months:.1f},{int(time <= censored)}")
        for part in range(0 if number == 0 else 2 if number == 3 else 1):
            slide, n_tiles = f"{patient}-S{part}", int(rng.integers(3, 7))
            tiles = rng.normal(size=(n_tiles, WIDTH)).astype(np.float32)
            tiles[:, 0] += seen
            store.write(SlideFeatures(slide, tiles))
            slides.append(f"{patient},{slide}")
            if number not in (1, 2):
                values = 2 + 0.5 * rng.normal(size=(n_tiles, len(GENES)))
                values[:, GENES.index(DRIVER)] += hidden
                values[:, GENES.index(BLIND)] = 9 + seen + hidden
                write_storm(storm, slide, values, domain=domain_of(number))
    (folder / "cohort.yaml").write_text(COHORT.format(name=name))
    (folder / "clinical.csv").write_text("\n".join(clinical) + "\n")
    (folder / "slides.csv").write_text("\n".join(slides) + "\n")
