"""Patients: tables, outcomes, splits, leakage and attrition."""
