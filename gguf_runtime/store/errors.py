"""What can go wrong with models by name."""


class StoreError(Exception):
    """A model that cannot be found, got or kept. The text says what to do about it."""


class NoModel(StoreError):
    """Nothing is called so, here or where it should come from: it makes no sense to try again."""
