"""`ggrun serve`: models over HTTP, by the APIs that clients know, for many users at once.

Two kinds of processes: this one speaks HTTP, renders conversations, and tells calls and thoughts from text; each loaded
model's engine has a process of its own (engine_process.py), for what else runs under the same interpreter lock makes
its steps longer. Data flow one way: an API's routes (openai.py …) make a Request (vocabulary.py) of a body; the service
(service.py) has a model (models.py) answer it; events come back, and the routes write them in their API's form. Texts
to embed or rank go the same way by embeddings.py.
"""
