"""A fixed protocol from predictions and outcomes to evidence."""
