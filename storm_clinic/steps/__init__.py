"""One module a verb: the only place that composes rooms."""
