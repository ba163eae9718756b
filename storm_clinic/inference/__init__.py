"""Models for inference on arrays: hazard ratios, tests, imputation, pooling. They never predict."""
