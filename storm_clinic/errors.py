"""Every error this package raises on purpose.

    StormClinicError
    ├── InputError                 a file, row, field or argument is not what it must be
    │   ├── StudyError             the study file
    │   ├── CohortError            a cohort's manifest or tables
    │   │   └── OutcomeError       times, events, codes
    │   │       └── NoOutcomeError nobody has an outcome (yet)
    │   ├── SlideError             one slide cannot be used
    │   │   ├── UnreadableSlide    not a slide, truncated, or a codec fails
    │   │   ├── MppError           microns per pixel unknown, contradictory or absurd
    │   │   └── NoTissue           nothing on the slide is tissue
    │   ├── EncoderError           an encoder, its package or its weights
    │   ├── FeatureError           a feature file or store
    │   │   └── ContractMismatch   features made in another way than is asked for
    │   ├── SectionError           a section with paired expression, its genes or its spots
    │   ├── CheckpointError        STORM's weights and what is declared beside them
    │   ├── PredictionsError       a table of predictions
    │   └── UnsafeName             an id that cannot become a file name
    ├── LeakageError               development and evaluation data touch
    ├── StatisticsError            a number that these data cannot give
    │   └── NoComparablePairs
    ├── TrainingError              a model that these data cannot train
    ├── RegistryError              a move, a model or an artefact the registry refuses
    └── StorageError               disk full, no permission, interrupted write

A message says where the problem is, what it is, and what to do about it, in that order.
"""

from __future__ import annotations

from pathlib import Path


class StormClinicError(Exception):
    """Base of all errors raised on purpose.

    Parameters
    ----------
    problem : str
        What is wrong, in words a data manager understands.
    where : str or Path, optional
        File, row, field, slide or argument at fault; printed first.
    fix : str, optional
        What to do about it; printed last.
    """

    def __init__(
        self, problem: str, *, where: str | Path | None = None, fix: str | None = None
    ) -> None:
        self.problem = problem
        self.where = None if where is None else str(where)
        self.fix = fix
        super().__init__(problem)

    def __str__(self) -> str:
        text = f"{self.where}: {self.problem}" if self.where else self.problem
        if not self.fix:
            return text
        if text.endswith("?"):
            return f"{text} {self.fix}"
        return f"{text.rstrip('.')}. {self.fix}"

    def __reduce__(self) -> tuple[object, ...]:
        # Worker processes hand errors back pickled; keyword-only parts must survive that.
        return _rebuild, (type(self), self.problem, self.where, self.fix)


def _rebuild(
    kind: type[StormClinicError], problem: str, where: str | None, fix: str | None
) -> StormClinicError:
    return kind(problem, where=where, fix=fix)


class InputError(StormClinicError):
    """A file, row, field or argument is not what it must be."""


class StudyError(InputError):
    """The study file is wrong."""


class CohortError(InputError):
    """A cohort's manifest or tables are wrong."""


class OutcomeError(CohortError):
    """Times, events or codes are wrong."""


class NoOutcomeError(OutcomeError):
    """Nobody has an outcome, or nobody yet."""


class SlideError(InputError):
    """One slide cannot be used; a batch goes on without it."""


class UnreadableSlide(SlideError):
    """Not a slide, truncated, or a codec fails."""


class MppError(SlideError):
    """Microns per pixel are unknown, contradictory or absurd."""


class NoTissue(SlideError):
    """Nothing on the slide is tissue."""


class EncoderError(InputError):
    """An encoder, its package or its weights cannot be had."""


class FeatureError(InputError):
    """A feature file or store is damaged or incomplete."""


class ContractMismatch(FeatureError):
    """Features were made in another way than is asked for."""


class SectionError(InputError):
    """A section with paired expression, its genes or its spots are wrong."""


class CheckpointError(InputError):
    """STORM's weights, or what is declared beside them, do not fit."""


class PredictionsError(InputError):
    """A table of predictions is wrong."""


class UnsafeName(InputError):
    """An id cannot become a file name."""


class LeakageError(StormClinicError):
    """Development and evaluation data touch."""


class StatisticsError(StormClinicError):
    """These data cannot give the number that was asked for."""


class NoComparablePairs(StatisticsError):
    """No two patients can be ranked by their outcomes."""


class TrainingError(StormClinicError):
    """These data cannot train the model that was asked for."""


class RegistryError(StormClinicError):
    """The registry refuses a move, a model or an artefact."""


class StorageError(StormClinicError):
    """Disk full, no permission, or an interrupted write."""
