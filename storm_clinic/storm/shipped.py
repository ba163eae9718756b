"""Checkpoints by the name under which they are shipped, or by their folder. Imports no torch."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from storm_clinic.errors import CheckpointError

SHIPPED = Path(__file__).parent / "checkpoints"
_CONFIG = "config.json"


def shipped_checkpoints() -> list[str]:
    """Names of the checkpoints that come with this package, sorted."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{_CONFIG}"))


def checkpoint_folder(checkpoint: str | Path) -> Path:
    """The folder of a checkpoint; a folder that exists comes before a name.

    Parameters
    ----------
    checkpoint : str or Path
        A folder, or the name of one that comes with this package.

    Raises
    ------
    CheckpointError
        If it is neither; lists the names.
    """
    folder = Path(checkpoint).expanduser()
    if (folder / _CONFIG).is_file():
        return folder.resolve()
    names = shipped_checkpoints()
    if str(checkpoint) in names:
        return SHIPPED / str(checkpoint)
    near = get_close_matches(str(checkpoint), names, n=1)
    listed = f"Shipped are: {', '.join(names) or 'none'}."
    raise CheckpointError(
        "is neither the folder of a checkpoint nor the name of a shipped one",
        where=folder,
        fix=f"Did you mean {near[0]}? {listed}" if near else listed,
    )
