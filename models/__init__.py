"""The catalogue of models that have a short name."""
