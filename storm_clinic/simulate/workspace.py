"""A whole workspace of simulated data: slides, truth and cohorts of two hospitals."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from storm_clinic.files import Workspace, write_text
from storm_clinic.progress import Progress
from storm_clinic.simulate.datasheet import datasheet_text, manifest_text
from storm_clinic.simulate.hospitals import HOSPITALS, Hospital
from storm_clinic.simulate.patients import simulate_patients
from storm_clinic.simulate.regions import lay_regions
from storm_clinic.simulate.section import draw_section
from storm_clinic.simulate.slide_file import write_slide, write_truth
from storm_clinic.simulate.slide_plan import SlidePlan, plan_slides, slides_table

_STAIN_SPREAD = 0.06  # from slide to slide, of the dyes' strengths
_KEPT_OF_TRUNCATED = 0.55


@dataclass(frozen=True)
class SimulatedWorkspace:
    """What was made.

    Attributes
    ----------
    workspace : Workspace
    cohorts : tuple of str
        Names; the first is meant for development, the second for validation.
    n_slides : int
        Files of slides.
    truth : Path
        Folder with ``<cohort>/<slide_id>.png``, see `read_truth`.
    """

    workspace: Workspace
    cohorts: tuple[str, ...]
    n_slides: int
    truth: Path


@dataclass(frozen=True)
class _SlideJob:
    hospital: Hospital
    plan: SlidePlan
    seed: tuple[int, ...]
    slide: Path
    truth: Path


def make_workspace(
    folder: str | Path,
    *,
    seed: int,
    hospitals: tuple[Hospital, ...] = HOSPITALS,
    progress: Progress | None = None,
) -> SimulatedWorkspace:
    """Make slides, ground truth and cohorts. The same seed makes the same files.

    Parameters
    ----------
    folder : str or Path
        Made if missing; files of the same names are replaced.
    seed : int
        Not negative.
    hospitals : tuple of Hospital
        Whom to simulate.
    progress : callable, optional
        Told ``("simulating slides", done, total)``.

    Raises
    ------
    StorageError
        If the disk is full or the folder may not be written.
    """
    workspace = Workspace(Path(folder))
    truth = workspace.root / "truth"
    jobs: list[_SlideJob] = []
    for number, (hospital, plans) in enumerate(declare_cohorts(workspace, seed, hospitals)):
        jobs += [
            _SlideJob(
                hospital=hospital,
                plan=plan,
                seed=(seed, number, k + 1),  # a trailing 0 would give the patients' stream again
                slide=workspace.root / "slides" / hospital.cohort / f"{plan.slide_id}.tiff",
                truth=truth / hospital.cohort / f"{plan.slide_id}.png",
            )
            for k, plan in enumerate(plans)
        ]
    _make_slides(jobs, progress)
    names = tuple(hospital.cohort for hospital in hospitals)
    return SimulatedWorkspace(workspace, names, len(jobs), truth)


def declare_cohorts(
    workspace: Workspace, seed: int, hospitals: tuple[Hospital, ...] = HOSPITALS
) -> list[tuple[Hospital, tuple[SlidePlan, ...]]]:
    """Write tables, manifest and datasheet of each hospital; returns the slides to be drawn."""
    declared = []
    for number, hospital in enumerate(hospitals):
        rng = np.random.default_rng((seed, number))
        patients = simulate_patients(hospital, rng)
        plans = plan_slides(hospital, patients, rng)
        home = workspace.cohorts / hospital.cohort
        write_text(home / "clinical.csv", patients.table.to_csv(index=False))
        write_text(home / "rna.csv", patients.rna.to_csv(index=False))
        write_text(home / "slides.csv", slides_table(hospital, plans).to_csv(index=False))
        write_text(home / "cohort.yaml", manifest_text(hospital, seed))
        write_text(home / "README.md", datasheet_text(hospital, len(plans), seed))
        declared.append((hospital, tuple(plans)))
    return declared


def _make_slides(jobs: list[_SlideJob], progress: Progress | None) -> None:
    # Threads: drawing and compressing happen in libraries that let go of Python's lock.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        futures = [pool.submit(_make_slide, job) for job in jobs]
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                if progress is not None:
                    progress("simulating slides", done, len(jobs))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # a full disk fails them all
            raise


def _make_slide(job: _SlideJob) -> None:
    rng = np.random.default_rng(job.seed)
    hospital, plan = job.hospital, job.plan
    width, height = (round(side / hospital.mpp) for side in hospital.size_um)
    if plan.condition == "blank":
        glass = np.array(hospital.stain.glass, dtype=np.uint8)
        write_slide(job.slide, np.broadcast_to(glass, (height, width, 3)).copy(), hospital.mpp)
        return
    regions = lay_regions(hospital.size_um, plan.planted_share, rng)
    stain = hospital.stain.varied(rng, _STAIN_SPREAD)
    pixels = draw_section(regions, (width, height), hospital.mpp, stain, inked=plan.inked, rng=rng)
    kept = _KEPT_OF_TRUNCATED if plan.condition == "truncated" else 1.0
    write_slide(job.slide, pixels, hospital.mpp, kept_share=kept)
    write_truth(job.truth, regions)
