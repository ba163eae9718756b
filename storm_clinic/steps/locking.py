"""The verb `lock`: a candidate becomes a model that nothing changes any more."""

from __future__ import annotations

from storm_clinic.files import Workspace
from storm_clinic.registry.moves import Registry
from storm_clinic.registry.versions import RegisteredModel


def lock(
    model: str | RegisteredModel, *, by: str, workspace: Workspace | None = None
) -> RegisteredModel:
    """Freeze weights, preprocessing, thresholds, claims and validation cohorts of a candidate.

    Parameters
    ----------
    model : str or RegisteredModel
        ``name`` (its latest candidate) or ``name:version``.
    by : str
        Who locks it; recorded for good.
    workspace : Workspace, optional
        The current folder by default.

    Raises
    ------
    RegistryError
        If it is no candidate, its files were changed, or it has no clinical comparator.
    """
    reference = model if isinstance(model, str) else model.reference
    return Registry(workspace or Workspace()).lock(reference, by=by)
