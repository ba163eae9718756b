"""STORM: one representation of H&E and spatial transcriptomics, learned from paired spots."""
