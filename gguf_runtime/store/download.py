"""Downloads that can be cut off at any moment and go on from there; a file has its name only once it is whole."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from .. import __version__
from .disk import check_space
from .errors import StoreError
from .progress import Progress
from .source import Remote, gated

_CHUNK = 1 << 18
_TIMEOUT = 30.0  # seconds without a byte
_FIRST_ATTEMPTS, _ATTEMPTS = 4, 10  # in a row that bring nothing, before anything came and after
_MAX_JSON = 1 << 24
_BROKEN = (OSError, http.client.HTTPException)  # a connection, that is


class _Unfinished(ConnectionError):
    """The server, which announces no length, came to an end, and what it sent is no whole GGUF file."""


def download_all(remotes: Mapping[Path, Remote], progress: Progress) -> list[Path]:
    """Get files, each to its path; gives the paths. Raises StoreError."""
    targets = list(remotes)
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
    sizes = [remote.size for remote in remotes.values()]
    total = sum(size for size in sizes if size is not None) if None not in sizes else None
    if total and targets:
        check_space(targets[0].parent, total - sum(max(_size(target), _size(_part(target))) for target in targets))
    before = 0
    for target, remote in remotes.items():
        if not _is_whole(remote, target):
            _download(remote, target, lambda done, of, before=before: progress(before + done, total or of))
        before += _size(target)
    progress.end()
    return targets


def get_json(url: str, headers: Mapping[str, str]) -> Any:
    """A JSON document. Raises StoreError, and FileNotFoundError where there is none."""
    for attempt in range(_FIRST_ATTEMPTS):
        try:
            with _open(url, headers) as response:
                return json.loads(response.read(_MAX_JSON))
        except urllib.error.HTTPError as error:
            if error.code == 404:
                raise FileNotFoundError(url) from error
            if error.code < 500 and error.code != 429:
                raise StoreError(_refused(url, error)) from error
            problem: Exception = error
        except ValueError as error:
            raise StoreError(f"{urlsplit(url).netloc} answers something that is no JSON for {url}") from error
        except _BROKEN as error:
            if _is_hopeless(error):
                raise StoreError(_unreachable(url, error)) from error
            problem = error
        _wait(attempt)
    raise StoreError(_unreachable(url, problem)) from problem


def _download(remote: Remote, target: Path, report: Any) -> None:
    part, failures, patience = _part(target), 0, _FIRST_ATTEMPTS
    ends: set[int] = set()
    while True:
        before = _size(part)
        try:
            if _go_on(remote, part, before, report):
                break
            problem: Exception = ConnectionError("the connection was closed early")
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise StoreError(_refused(remote.url, error)) from error
            problem = error
        except _BROKEN as error:
            if getattr(error, "filename", None):  # our own disk
                raise
            if _is_hopeless(error):
                raise StoreError(_unreachable(remote.url, error)) from error
            if isinstance(error, _Unfinished):
                if (end := _size(part)) in ends:  # so it was no accident
                    _forget(part)
                    raise StoreError(f"what {urlsplit(remote.url).netloc} has is {error}") from error
                ends.add(end)
            problem = error
        failures += 1
        if _size(part) > before:
            failures, patience = 0, _ATTEMPTS
        if failures == patience:
            raise StoreError(f"{_unreachable(remote.url, problem)}; the same command goes on from here") from problem
        _wait(failures)
    if remote.sha256 is not None and _sha256(part) != remote.sha256:
        _forget(part)
        raise StoreError(f"{remote.name} does not have the SHA-256 that was announced, and is deleted: try again")
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, target)
    _forget(part)


def _go_on(remote: Remote, part: Path, have: int, report: Any) -> bool:
    """Download from `have` on; whether that was all. Raises OSError, HTTPException, StoreError."""
    etag_file = part.with_name(part.name + ".etag")
    headers = dict(remote.headers)
    if have:
        headers["Range"] = f"bytes={have}-"
        if remote.sha256 is None and etag_file.exists():  # what is there may be of an earlier version of the file
            headers["If-Range"] = etag_file.read_text("ascii")
    try:
        response = _open(remote.url, headers)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing after that
            raise
        if have == remote.size:
            return True
        _forget(part)
        return False
    with response, part.open("r+b" if have else "wb", buffering=0) as file:
        if response.status != 206 or not str(response.headers["Content-Range"]).startswith(f"bytes {have}-"):
            have = 0
        file.seek(have)
        file.truncate()
        length = response.headers["Content-Length"]
        total = have + int(length) if length else None
        if remote.size is not None and total not in (None, remote.size):
            raise StoreError(f"{remote.name} has {total} bytes, where {remote.size} were announced: try again later")
        if have == 0:
            _keep_etag(etag_file, response.headers["ETag"])
        check_space(part.parent, (total or 0) - have)
        have = _copy(response, file, have, total, report)
    expected = remote.size if total is None else total
    if expected is None and remote.sha256 is None and (problem := _flaw(part)):
        raise _Unfinished(f"no whole GGUF file: {problem}")
    return expected is None or have >= expected


def _copy(response: Any, file: BinaryIO, have: int, total: int | None, report: Any) -> int:
    report(have, total)
    while chunk := response.read1(_CHUNK):
        if have == 0 and not b"GGUF".startswith(chunk[:4]) and chunk[:4] != b"GGUF":
            raise StoreError(f"{response.url.split('?')[0]} is no GGUF file")
        try:
            file.write(chunk)
        except OSError as error:
            raise StoreError(f"{file.name}: {error.strerror}") from error
        have += len(chunk)
        report(have, total)
    return have


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Takes a token along only to the host that it is for."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None and urlsplit(newurl)[:2] != urlsplit(req.full_url)[:2]:
            new.remove_header("Authorization")
        return new


def _open(url: str, headers: Mapping[str, str]) -> Any:
    request = urllib.request.Request(url, headers={"User-Agent": f"ggrun/{__version__}", **headers})
    opener = urllib.request.build_opener(_Redirects, urllib.request.HTTPSHandler(context=_tls()))
    return opener.open(request, timeout=_TIMEOUT)


def _tls() -> ssl.SSLContext:
    """The system's certificates, or certifi's where Python comes without any."""
    paths = ssl.get_default_verify_paths()
    if os.name == "nt" or paths.cafile or paths.capath:
        return ssl.create_default_context()
    import certifi

    return ssl.create_default_context(cafile=certifi.where())


def _refused(url: str, error: urllib.error.HTTPError) -> str:
    host = urlsplit(url).netloc
    if error.headers.get("X-Error-Code") == "GatedRepo":
        return gated("/".join(urlsplit(url).path.split("/")[1:3]))
    if error.code in (401, 403):
        return f"{host} does not let you have this ({error.code}): log in there and give your token in HF_TOKEN"
    if error.code == 404:
        return f"{host} has no {urlsplit(url).path}"
    return f"{host} answers {error.code} {error.reason}"


def _unreachable(url: str, error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"{urlsplit(url).netloc} answers {error.code} {error.reason}: try again later"
    reason = getattr(error, "reason", None) or error
    return f"no answer from {urlsplit(url).netloc} ({reason}): check the connection, and try again"


def _is_hopeless(error: Exception) -> bool:
    """Whether to try again would be in vain: wrong names, and certificates that are not trusted."""
    reason = getattr(error, "reason", error)
    return isinstance(reason, ssl.SSLCertVerificationError)


def _wait(attempt: int) -> None:
    time.sleep(min(0.2 * 2**attempt, 5.0))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_whole(remote: Remote, target: Path) -> bool:
    """Whether the file is there, and the one that is meant."""
    if not target.exists() or (remote.size is not None and _size(target) != remote.size):
        return False
    if remote.sha256 is None:
        return remote.size is not None or not _flaw(target)
    return _sha256(target) == remote.sha256


def _flaw(path: Path) -> str:
    """What keeps a file from being a whole GGUF file, whose header says how long it must be; empty for nothing."""
    from ..loader import GGUFError
    from ..loader.file import open_one

    try:
        open_one(path, mapped=True).close()
    except GGUFError as error:
        return str(error)
    return ""


def _part(target: Path) -> Path:
    return target.with_name(target.name + ".incomplete")  # as huggingface_hub calls it


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _keep_etag(file: Path, etag: str | None) -> None:
    file.unlink(missing_ok=True)
    if etag and not etag.startswith("W/"):
        file.write_text(etag, "ascii", errors="ignore")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_name(part.name + ".etag").unlink(missing_ok=True)
