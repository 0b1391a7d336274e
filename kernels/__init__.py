"""Kernels: SIMD code for the CPU and CUDA code for GPUs. Knows nothing of models, files or text."""
