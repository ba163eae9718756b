"""What an audit can find, each kind with a stable name."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Stable names of findings; never reused for something else."""

    # The chain.
    TRAIL_UNREADABLE = "trail_unreadable"
    TRAIL_UNGUARDED = "trail_unguarded"
    ROW_MISSING = "row_missing"
    ROW_MOVED = "row_moved"
    ROW_EDITED = "row_edited"
    ROW_UNLINKED = "row_unlinked"
    ROW_NO_EVENT = "row_no_event"
    ROW_BACKDATED = "row_backdated"
    ROW_IN_FUTURE = "row_in_future"
    HEAD_LOST = "head_lost"
    HEAD_DIFFERS = "head_differs"
    # Signatures.
    SIGNATURE_BAD = "signature_bad"
    SIGNATURE_BY_OTHER = "signature_by_other"
    SIGNATURE_MISSING = "signature_missing"
    SIGNATURE_UNCHECKED = "signature_unchecked"
    # What the events say happened.
    EVENT_UNKNOWN = "event_unknown"
    EVENT_MALFORMED = "event_malformed"
    MOVE_ILLEGAL = "move_illegal"
    BUNDLE_EXCHANGED = "bundle_exchanged"
    SCORED_UNLOCKED = "scored_unlocked"
    SCORED_TWICE = "scored_twice"
    VALIDATED_UNSEALED = "validated_unsealed"
    VALIDATED_TWICE = "validated_twice"
    COHORT_NOT_NAMED = "cohort_not_named"
    COHORT_OF_DEVELOPMENT = "cohort_of_development"
    APPROVED_BY_SELF = "approved_by_self"
    APPROVED_UNVALIDATED = "approved_unvalidated"
    DECISION_DIFFERS = "decision_differs"
    # Files against the digests in the trail.
    FILE_CHANGED = "file_changed"
    FILE_MISSING = "file_missing"
    FILE_ADDED = "file_added"
    FILE_LINKED = "file_linked"
    FILES_SWAPPED = "files_swapped"
    FOLDER_LOST = "folder_lost"
    BUNDLE_DIFFERS = "bundle_differs"
    LOCK_DIFFERS = "lock_differs"
    # MLflow's database against the trail and the evidence.
    MLFLOW_UNREADABLE = "mlflow_unreadable"
    VERSION_UNKNOWN = "version_unknown"
    VERSION_LOST = "version_lost"
    VERSION_OTHER = "version_other"
    TAG_DIFFERS = "tag_differs"
    ALIAS_DIFFERS = "alias_differs"
    RUN_LOST = "run_lost"
    RUN_LATER = "run_later"
    METRIC_CHANGED = "metric_changed"
    METRIC_MISSING = "metric_missing"
    METRIC_ADDED = "metric_added"


@dataclass(frozen=True)
class Finding:
    """One difference between what the trail says and what is there.

    Attributes
    ----------
    kind : Kind
    place : str
        Row of the trail, file relative to ``mlruns/``, version, alias, or run and metric.
    sentence : str
        What differs, whole, with its place, in words.
    expected, found : str
        Both sides; empty where there are none.
    """

    kind: Kind
    place: str
    sentence: str
    expected: str = ""
    found: str = ""

    def __str__(self) -> str:
        return self.sentence
