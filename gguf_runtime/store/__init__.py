"""Models by name: where they are on this machine, and getting those that are not."""

from .errors import StoreError
from .names import resolve
from .store import Model, Store

__all__ = ["Model", "Store", "StoreError", "resolve"]
