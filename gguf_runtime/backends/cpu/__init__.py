"""The CPU backend: runs graphs on the thread pool.

Its modules, from the bottom up: fusion, buffers, inputs, plan, steps, backend.
"""

from .backend import Cpu, CpuBackend

__all__ = ["Cpu", "CpuBackend"]
