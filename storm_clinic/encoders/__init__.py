"""Tile encoders: facts, weights, and pixels to embeddings."""
