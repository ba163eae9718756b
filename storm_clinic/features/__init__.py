"""The feature store: one HDF5 file a slide, written once."""
