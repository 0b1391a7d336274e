"""What may be wrong with a model or a GPU, as those who place layers must know."""


class PlanError(Exception):
    """The model is sound, but needs something that a backend does not have."""


class GpuError(Exception):
    """There is no GPU that can be used, or one failed; the message says why."""


class GpuMemoryError(GpuError, MemoryError):
    """A GPU's memory is too small."""


class DeviceLost(Exception):
    """A device is gone, with the weights, keys and values that it had."""
