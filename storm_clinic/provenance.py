"""Which code and which packages made an output: what every run, bundle and report records."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from storm_clinic.files import digest_file, digest_value

# Packages whose version may change a number.
NUMERICAL_PACKAGES = (
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "scikit-survival",
    "lifelines",
    "torch",
)

_PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class CodeVersion:
    """The exact code that ran.

    Attributes
    ----------
    version : str
        Version of the installed package.
    digest : str
        SHA-256 over the package's Python files: two runs with the same digest ran the same code,
        committed or not.
    commit : str or None
        Git commit of the checkout; None where the package was installed without one.
    dirty : bool
        True where the checkout's package folder differs from that commit.
    """

    version: str
    digest: str
    commit: str | None
    dirty: bool

    def as_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        return asdict(self)


@cache
def code_version() -> CodeVersion:
    """Identify the running code; looked up once a process."""
    sources = sorted(_PACKAGE.rglob("*.py"))
    digests = {path.relative_to(_PACKAGE).as_posix(): digest_file(path) for path in sources}
    commit = _git("rev-parse", "HEAD") if _is_checkout() else None
    dirty = bool(commit and _git("status", "--porcelain", "--", "."))
    return CodeVersion(metadata.version("storm-clinic"), digest_value(digests), commit, dirty)


@cache
def environment() -> dict[str, Any]:
    """Python, platform and the version of every installed package, ready for JSON."""
    packages = {item.metadata["Name"]: item.version for item in metadata.distributions()}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def package_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Versions of these packages, those that are not installed left out."""
    installed: dict[str, str] = environment()["packages"]
    by_name = {name.lower().replace("_", "-"): version for name, version in installed.items()}
    return {name: by_name[name] for name in names if name in by_name}


def _is_checkout() -> bool:
    # A wheel inside somebody else's repository must not borrow that repository's commit.
    return _git("ls-files", "--error-unmatch", "__init__.py") is not None


def _git(*arguments: str) -> str | None:
    """What git prints, or None where there is no git or no repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(_PACKAGE), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
