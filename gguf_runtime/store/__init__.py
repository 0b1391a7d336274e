"""Models by name: where they are on this machine, and getting those that are not."""

from .errors import NoModel, StoreError
from .model import StoredModel
from .names import all_models, find, resolve
from .progress import HowFar
from .store import Store

__all__ = ["HowFar", "StoredModel", "NoModel", "Store", "StoreError", "all_models", "find", "resolve"]
