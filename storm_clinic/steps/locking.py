"""The verb `lock`: a candidate becomes a model that nothing changes any more."""

from __future__ import annotations

from storm_clinic.files import Workspace
from storm_clinic.registry.moves import Registry
from storm_clinic.registry.versions import Referring, RegisteredModel, reference_of


def lock(model: str | Referring, *, by: str, workspace: Workspace | None = None) -> RegisteredModel:
    """Freeze weights, preprocessing, thresholds, claims and validation cohorts of a candidate.

    Parameters
    ----------
    model : str, or what `train` gave
        ``name`` (its latest version) or ``name:version``.
    by : str
        Who locks it; recorded for good.
    workspace : Workspace, optional
        The current folder by default.

    Raises
    ------
    RegistryError
        If it is no candidate, its files were changed, or it has no clinical comparator.
    """
    return Registry(workspace or Workspace()).lock(reference_of(model), by=by)
