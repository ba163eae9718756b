"""Clinical prediction on frozen embeddings.

slides → features → cohort → model → validation → registry

Everything public is named here and loaded on first use, so that ``import storm_clinic`` pulls in
neither torch nor MLflow.
"""
