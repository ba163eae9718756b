"""Models of bags and covariates, and how they are fitted."""
