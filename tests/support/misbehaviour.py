"""What a process may do instead of reading a file; found by name, as children need it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np


def sleep(path: Path) -> None:
    """Say that the work began, and never come back."""
    path.touch()
    time.sleep(3600)


def divide(path: Path) -> float:
    return len(path.name) / 0


def zeros(path: Path, *, n: int) -> np.ndarray:
    return np.zeros(n, np.uint8)


def hand_back(path: Path, *, value: object) -> object:
    return value
