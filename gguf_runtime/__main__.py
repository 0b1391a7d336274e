"""`python -m gguf_runtime` is `ggrun`."""

from .cli import main

main()
