"""The kernels of the CUDA backend: CUDA C++ that NVRTC compiles for the GPU found; source.py says how."""
