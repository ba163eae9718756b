"""Where a pretraining stands, in one file from which it goes on exactly.

The file is safetensors with JSON in its header: tensors and facts are replaced together, or not at
all. Chance is not in it, as it is drawn anew for each position from the seed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from storm_clinic.errors import TrainingError
from storm_clinic.files import atomic_write, remove_dead_parts
from storm_clinic.storm.optimisation import Optimiser

FORMAT_VERSION = 1
_HEADER = "storm_clinic"
_MODULE, _OPTIMISER = "module/", "optimiser/"


@dataclass(frozen=True, eq=False)
class TrainingState:
    """What was kept.

    Attributes
    ----------
    identity : str
        Digest of all that decides the result: a state of another training is refused.
    history : list of dict
        What was logged so far.
    window : list of float
        Sums since the last point of the history.
    tensors : mapping of str to tensor
        See `restore`.
    """

    identity: str
    history: list[dict[str, float]]
    window: list[float]
    tensors: Mapping[str, Tensor]

    def restore(self, module: nn.Module, optimiser: Optimiser) -> None:
        """Put weights, moments and means back."""
        module.load_state_dict(_part(self.tensors, _MODULE))
        optimiser.load_state_dict(_part(self.tensors, _OPTIMISER))


def keep_state(
    path: Path,
    module: nn.Module,
    optimiser: Optimiser,
    *,
    identity: str,
    history: list[dict[str, float]],
    window: list[float],
) -> None:
    """Replace the state at ``path`` by today's, atomically.

    Raises
    ------
    StorageError
        If the disk is full or the folder may not be written.
    """
    parts = ((_MODULE, module.state_dict()), (_OPTIMISER, optimiser.state_dict()))
    tensors = {
        prefix + name: value.detach().cpu().contiguous()
        for prefix, part in parts
        for name, value in part.items()
    }
    facts = {
        "format_version": FORMAT_VERSION,
        "identity": identity,
        "history": history,
        "window": window,
    }
    remove_dead_parts(path)
    with atomic_write(path) as part_path:
        save_file(tensors, part_path, {_HEADER: json.dumps(facts, allow_nan=False)})


def read_state(path: Path, *, identity: str) -> TrainingState | None:
    """The state at ``path``, or None where there is none.

    Raises
    ------
    TrainingError
        If it is damaged, of another version, or that of another training.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            facts: dict[str, Any] = json.loads(file.metadata()[_HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        version, stated = facts["format_version"], facts["identity"]
        kept = TrainingState(stated, facts["history"], facts["window"], tensors)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"is no state of a training: {error!r}", where=path, fix=_AFRESH
        ) from error
    if version != FORMAT_VERSION:
        raise TrainingError(
            f"is of version {version}, not {FORMAT_VERSION}", where=path, fix=_AFRESH
        )
    if stated != identity:
        raise TrainingError(
            "is the state of a training with other data or settings", where=path, fix=_AFRESH
        )
    return kept


_AFRESH = "Remove the file to begin afresh, or use another folder."


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
