"""Slides and cohorts with a planted signal. No patient stands behind any of it."""
