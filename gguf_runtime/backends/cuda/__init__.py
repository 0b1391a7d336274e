"""The CUDA backend: runs graphs on a GPU.

What a GPU is to do is planned without one: places, weights, workspace, plan, writer, rows, products (prefill),
attention, experts, recurrence, operations. device and what runs such plans needs CuPy: upload, embedding, inputs,
program, backend; bus, kv_staging, hybrid_decode and streaming for layers that stay in the system's memory; gpu.
"""
