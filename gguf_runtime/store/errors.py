"""What can go wrong with models by name."""


class StoreError(Exception):
    """A model that cannot be found, got or kept. The text says what to do about it."""
