"""The governed life of a model, on top of MLflow."""
