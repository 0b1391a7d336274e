"""The kernels of the CPU backend; compiler.py says how they are written and named."""
