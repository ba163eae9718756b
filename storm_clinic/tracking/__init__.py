"""MLflow, client side only: an experiment a study, a run a training, a child run a model.

Everything lies under ``mlruns/`` of the workspace: ``mlflow.db`` (SQLite) and ``artifacts/``. No
global state of MLflow is set; no patient or slide id may be passed in, only keys
(`storm_clinic.registry.identity`). MLflow itself is imported when it is first needed.
"""

from storm_clinic.tracking.runs import Metric, RunLog, RunRecord, StudyRun, fold_step
from storm_clinic.tracking.tracker import Tracker

__all__ = ["Metric", "RunLog", "RunRecord", "StudyRun", "Tracker", "fold_step"]
