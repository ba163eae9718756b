"""Two hospitals with tile features and STORM files, all simulated; some slides lack one of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from storm_hospital import COHORT

from storm_clinic.features.contract import FeatureContract
from storm_clinic.features.slide_features import SlideFeatures
from storm_clinic.features.store import FeatureStore
from storm_clinic.features.storm_contract import StormContract
from storm_clinic.features.storm_writer import ImputedGenes, SlideStorm, write_storm_file
from storm_clinic.files import Workspace, digest_value

ENCODER, CHECKPOINT, WIDTH, STORM_WIDTH = "toy", "toy-storm", 5, 4
# Of the third nothing is known to be learnt: no model may see it.
GENES = ("AAA1", "BBB2", "CCC3", "DDD4", "EEE5", "FFF6")
LOWER = np.array([0.3, 0.2, -0.1, 0.4, 0.1, 0.2], np.float32)
SEEN = tuple(gene for gene, lower in zip(GENES, LOWER, strict=True) if lower > 0)
CONTRACT = StormContract(
    checkpoint=CHECKPOINT,
    checkpoint_digest="c" * 64,
    encoder=ENCODER,
    encoder_digest="e" * 64,
    source_digest="d" * 64,
    width=STORM_WIDTH,
    mpp=0.5,
    tile_px=224,
    overlap_px=0,
    n_genes=len(GENES),
    genes_digest=digest_value(list(GENES)),
    min_r=None,
    per_tile=True,
)
UNUSUAL = "61% of tiles lie beyond the training domain"


def imputed(genes: tuple[str, ...] = GENES, lower: np.ndarray = LOWER) -> ImputedGenes:
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
    spots: np.ndarray,
    values: np.ndarray,
    *,
    contract: StormContract = CONTRACT,
    genes: ImputedGenes | None = None,
    warning: str | None = None,
) -> Path:
    """One STORM file with these embeddings and this expression of tiles."""
    slide = SlideStorm(
        slide_id=slide_id,
        spots=spots,
        slide=spots.mean(axis=0),
        coords=np.column_stack([np.arange(len(spots)) * 448, np.zeros(len(spots))]).astype(int),
        source_digest="d" * 64,
        slide_mpp=0.25,
        expression=values.mean(axis=0),
        tiles=[values] if contract.per_tile else None,
        domain_warning=warning,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_storm_file(folder / f"{slide_id}.h5", slide, contract, genes or imputed())
    return folder / f"{slide_id}.h5"


def write_hospital(workspace: Workspace, name: str, *, n_patients: int, seed: int) -> None:
    """Patient 0 has no slide, 1 tile features alone, 2 a STORM file alone; 3 has two slides of
    which the second has tile features alone, 4 two of which it has a STORM file alone; 5 has two
    whole slides. The slide of patient 6 looks unusual to the checkpoint.
    """
    rng = np.random.default_rng(seed)
    folder = workspace.cohorts / name
    folder.mkdir(parents=True)
    store = FeatureStore.create(
        workspace.store(name, ENCODER),
        FeatureContract(ENCODER, None, WIDTH, None, None, dtype="float32", provenance="declared"),
    )
    files = workspace.store(name, CHECKPOINT)
    files.mkdir(parents=True)
    CONTRACT.settle(files)
    clinical, slides = ["patient,age,months,progressed"], ["patient,slide"]
    for number in range(n_patients):
        seen, hidden = rng.normal(size=2)
        time = rng.exponential(12 * np.exp(-1.0 * (seen + hidden)))
        censored = rng.uniform(6, 36)
        patient, age = f"{name.upper()}-{number:03d}", rng.normal(60, 8)
        ends = f"{max(min(time, censored), 0.5):.1f},{int(time <= censored)}"
        clinical.append(f"{patient},{age:.1f},{ends}")
        for part in range({0: 0, 3: 2, 4: 2, 5: 2}.get(number, 1)):
            slide, n_tiles = f"{patient}-S{part}", int(rng.integers(2, 9))
            slides.append(f"{patient},{slide}")
            tiles = rng.normal(size=(n_tiles, WIDTH)).astype(np.float32)
            tiles[:, 0] += seen
            if (number, part) not in ((2, 0), (4, 1)):
                store.write(SlideFeatures(slide, tiles))
            spots = rng.normal(size=(n_tiles, STORM_WIDTH)) + hidden
            values = 2 + 0.5 * rng.normal(size=(n_tiles, len(GENES)))
            values[:, 1] += hidden
            values[:, 2] = 9 + seen + hidden  # tells all, and must not be seen
            if (number, part) not in ((1, 0), (3, 1)):
                warning = UNUSUAL if number == 6 else None
                write_storm(files, slide, spots, values, warning=warning)
    (folder / "cohort.yaml").write_text(COHORT.format(name=name))
    (folder / "clinical.csv").write_text("\n".join(clinical) + "\n")
    (folder / "slides.csv").write_text("\n".join(slides) + "\n")
