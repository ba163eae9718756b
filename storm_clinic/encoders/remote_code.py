"""Networks that exist only as Python files beside their weights: run them by consent alone.

Such a repository can run anything on this machine, and can change under the same name. Two rules
follow: code runs only from a folder that somebody put here, never straight from the hub; and only
if the user has named the digest of exactly these files in ``STORM_CLINIC_REMOTE_CODE``. That pins
the revision by content, and a file that changes afterwards is refused.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from storm_clinic.encoders.contract import Published
from storm_clinic.encoders.weights import origin
from storm_clinic.errors import EncoderError
from storm_clinic.files import digest_file, digest_value

CONSENT = "STORM_CLINIC_REMOTE_CODE"


def code_digest(folder: Path) -> str:
    """SHA-256 over names and contents of all Python files below a folder, and its config.json.

    The configuration is part of it because it says which class is loaded from which file.
    """
    paths = sorted([*folder.rglob("*.py"), folder / "config.json"])
    return digest_value({str(path.relative_to(folder)): digest_file(path) for path in paths})


def consented() -> frozenset[str]:
    """Digests that the user has agreed to, from the environment, separated by commas."""
    given = os.environ.get(CONSENT, "").split(",")
    return frozenset(text.strip().lower() for text in given if text.strip())


def require_consent(card: Published, folder: Path, *, given: bool) -> None:
    """Refuse code that nobody agreed to run.

    Parameters
    ----------
    card : EncoderCard or SlideEncoderCard
        Whose code it is.
    folder : Path
        Where config.json, Python files and weights lie.
    given : bool
        Whether the user named that folder; code that was only fetched is never run.

    Raises
    ------
    EncoderError
        If the folder was not named, sends for code elsewhere, or its digest is not agreed to.
    """
    where = f"encoder {card.name}"
    if not given:
        raise EncoderError(
            "its network is Python code beside its weights, which is run from a folder of yours "
            "only",
            where=where,
            fix=origin(card),
        )
    _require_local_code(folder)
    digest = code_digest(folder)
    if digest not in consented():
        raise EncoderError(
            f"its network is Python code in {folder}, which nobody has agreed to run",
            where=where,
            fix=f"Read its .py files; if you trust them, set {CONSENT}={digest} and run again.",
        )


def _require_local_code(folder: Path) -> None:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise EncoderError(
            "holds no config.json, which says what the network looks like", where=folder
        ) from None
    except (OSError, ValueError) as error:
        raise EncoderError(f"cannot be read: {error}", where=path) from error
    named = config.get("auto_map", {}) if isinstance(config, dict) else {}
    # "owner/repository--file.Class" would be fetched, unread and unpinned.
    if "--" in json.dumps(named):
        raise EncoderError(
            f"auto_map names code of another repository: {named}",
            where=path,
            fix="Copy those files here and name them without the repository.",
        )
