"""OpenAI's embeddings and llama-server's, and reranking in Jina's form and TEI's."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from .embeddings import embed
from .fields import plain
from .http import ApiCall
from .vocabulary import EmbeddingRequest, Failure, Timings


async def embeddings(call: ApiCall) -> Any:
    """In OpenAI's form unless only llama-server's will do, whose path this is too."""
    if call.service.policy.pooling == "none":
        return await llama_server_embedding(call)
    return await openai_embeddings(call)


async def openai_embeddings(call: ApiCall) -> Any:
    body = call.body
    if "input" not in body and "content" in body:  # as llama-server tells its own form from OpenAI's
        return await llama_server_embedding(call)
    form = body.text("encoding_format") or "float"
    if form not in ("float", "base64"):
        raise body.wrong("encoding_format", "float or base64", form)
    request = _request(call, _texts(call, "input"))
    if (dimensions := body.whole("dimensions", least=1)) is not None:
        request.options["dimensions"] = dimensions
    made = await embed(call, request)
    vectors = [b64encode(row).decode() for row in made.rows] if form == "base64" else await made.vectors()
    listed = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
    return {"object": "list", "data": listed, "model": made.model.name, "usage": _usage(made.timings)}


async def llama_server_embedding(call: ApiCall) -> Any:
    """A list of vectors for each text: of its tokens, or where they are pooled one."""
    body = call.body
    request = _request(call, _texts(call, "content", "input"))
    if (norm := body.whole("embd_normalize")) not in (None, -1, 2):
        raise Failure("invalid", f"embd_normalize: 2 makes vectors of length 1, -1 leaves them; not {norm}")
    request.options["normalize"] = norm != -1 and call.service.policy.pooling != "none"
    made = await embed(call, request, per_token=True)
    return [{"index": i, "embedding": vectors} for i, vectors in enumerate(await made.token_vectors())]


async def rerank(call: ApiCall) -> Any:
    """Scores are the model's own: logits of most."""
    body = call.body
    is_tei = "texts" in body and "documents" not in body
    query = body.required(body.text("query"), "query")
    texts = _documents(call, "texts" if is_tei else "documents")
    n = body.whole("top_n", least=1) or len(texts)
    request = _request(call, [*texts])
    request.query = query
    made = await embed(call, request)
    best = sorted(enumerate(made.scores), key=lambda scored: -scored[1])[:n]
    if is_tei:
        shows = body.flag("return_text")
        return [{"index": i, "score": score, **({"text": texts[i]} if shows else {})} for i, score in best]
    shows = body.flag("return_documents")
    results = [
        {"index": i, "relevance_score": score, **({"document": {"text": texts[i]}} if shows else {})}
        for i, score in best
    ]
    return {"model": made.model.name, "object": "list", "usage": _usage(made.timings), "results": results}


def _request(call: ApiCall, texts: list[str | list[int | str]]) -> EmbeddingRequest:
    body = call.body
    return EmbeddingRequest(
        model=body.text("model") or "",
        texts=texts,
        options={"truncate": bool(body.flag("truncate"))},
        priority=body.whole("priority") or 0,
        keep_alive=body.real("keep_alive"),
    )


def _texts(call: ApiCall, *names: str) -> list[str | list[int | str]]:
    """One or several, each text or token ids, or both mixed. Raises Failure."""
    value = plain(call.body.required(call.body.any(*names), names[0]))
    if isinstance(value, list) and not (_is_mixed(value) and any(type(part) is int for part in value)):
        texts = [plain(item) for item in value]
    else:
        texts = [value]
    if not texts or not all(isinstance(text, str) or _is_mixed(text) for text in texts):
        raise call.body.wrong(names[0], "text, token ids, or a list of these", value)
    return texts


def _is_mixed(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(part) in (int, str) for part in value)


def _documents(call: ApiCall, name: str) -> list[str]:
    """Texts, or objects that have them. Raises Failure."""
    values = call.body.required(call.body.array(name), name)
    given = [value.get("text") if isinstance(value, dict) else value for value in values]
    texts = [text for text in given if isinstance(text, str)]
    if not texts or len(texts) < len(given):
        raise call.body.wrong(name, "a list of texts", values)
    return texts


def _usage(timings: Timings) -> dict[str, int]:
    return {"prompt_tokens": timings.n_prompt, "total_tokens": timings.n_prompt}
