"""The three simulated hospitals: how many patients, which scanner, which stain."""

from __future__ import annotations

from dataclasses import dataclass

from storm_clinic.simulate.stain import Stain


@dataclass(frozen=True)
class Words:
    """How a hospital's tables spell what happened.

    Attributes
    ----------
    event : tuple of str
        Censored, event.
    first_event : tuple of str
        Censored, relapse, death.
    grade : tuple of str
        From low to high.
    """

    event: tuple[str, str]
    first_event: tuple[str, str, str]
    grade: tuple[str, str, str]


@dataclass(frozen=True)
class Hospital:
    """What patients and slides of one hospital have in common.

    Attributes
    ----------
    cohort : str
        Name of its cohort.
    n_patients : int
    mpp : float
        Microns per pixel of its scanner.
    size_um : (width, height)
        Of a slide, in microns.
    sites : tuple of str
        Where its patients were treated.
    stain : Stain
    time_unit : {"months", "days"}
        How its table states times.
    words : Words
    n_without_slides, n_blank, n_truncated, n_orphans : int
        Patients whose slides are missing, slides of glass only, damaged slides, and slides of
        patients whom the clinical table does not have.
    """

    cohort: str
    n_patients: int
    mpp: float
    size_um: tuple[int, int]
    sites: tuple[str, ...]
    stain: Stain
    time_unit: str
    words: Words
    n_without_slides: int
    n_blank: int
    n_truncated: int
    n_orphans: int


HOSPITALS = (
    Hospital(
        cohort="demo_a",
        n_patients=60,
        mpp=0.5,
        size_um=(896, 672),
        sites=("a1", "a2", "a3", "a4", "a5", "a6"),
        stain=Stain(
            haematoxylin=(0.65, 0.70, 0.29),
            eosin=(0.07, 0.95, 0.30),
            strength=(1.9, 0.75),
            glass=(243, 243, 244),
        ),
        time_unit="months",
        words=Words(
            event=("0", "1"),
            first_event=("0", "1", "2"),
            grade=("low", "intermediate", "high"),
        ),
        n_without_slides=2,
        n_blank=1,
        n_truncated=1,
        n_orphans=1,
    ),
    Hospital(
        cohort="demo_b",
        n_patients=80,
        mpp=0.25,
        size_um=(672, 672),
        sites=("b1", "b2", "b3", "b4"),
        stain=Stain(
            haematoxylin=(0.74, 0.62, 0.26),
            eosin=(0.12, 0.93, 0.46),
            strength=(1.55, 0.95),
            glass=(240, 238, 233),
        ),
        time_unit="days",
        words=Words(
            event=("alive", "event"),
            first_event=("alive", "relapsed", "died"),
            grade=("G1", "G2", "G3"),
        ),
        n_without_slides=1,
        n_blank=0,
        n_truncated=0,
        n_orphans=1,
    ),
    Hospital(
        cohort="demo_c",
        n_patients=130,
        mpp=0.5,
        size_um=(672, 672),
        sites=("c1", "c2", "c3"),
        stain=Stain(  # towards that of demo_b from that of demo_a, but a fifth of the way
            haematoxylin=(0.668, 0.684, 0.284),
            eosin=(0.08, 0.946, 0.332),
            strength=(1.83, 0.79),
            glass=(242, 242, 242),
        ),
        time_unit="months",
        words=Words(
            event=("0", "1"),
            first_event=("0", "1", "2"),
            grade=("low", "intermediate", "high"),
        ),
        n_without_slides=1,
        n_blank=0,
        n_truncated=0,
        n_orphans=0,
    ),
)
