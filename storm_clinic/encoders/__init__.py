"""Frozen tile encoders: a contract, a table of facts, and loaders."""
