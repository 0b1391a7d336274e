"""Models from Hugging Face: hf:OWNER/REPO, hf:OWNER/REPO:QUANT or hf:OWNER/REPO/FILE.gguf.

They are kept in huggingface_hub's cache, as it keeps them, so that no file is on a machine twice. It knows the site's
API, tokens and endpoints (HF_TOKEN, HF_ENDPOINT); the bytes come by our own download, which it lacks: that goes on
after a cut, and checks the SHA-256.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import expanded
from ..kernels.kernel_cache import home
from .errors import NoModel, StoreError
from .model import StoredModel, kept_by, parts
from .progress import Progress
from .source import Remote, gated, is_gguf

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

_PREFERRED = ("Q4_K_M", "Q4_K_S", "Q4_0", "MXFP4", "Q8_0", "F16", "BF16")
_QUANT = re.compile(r"(?:^|[-._/])((?:UD-)?(?:I?Q\d\w*|TQ\d_\d|MXFP4\w*|BF16|FP?16|F32))(?=$|[-._/])", re.IGNORECASE)
_SPLIT = re.compile(r"-\d{5}-of-\d{5}$")
_MAX_HTTP = 50_000_000_000  # bytes; larger files come through huggingface_hub's Xet alone
_URL = re.compile(r"https://huggingface\.co/([^/]+/[^/]+)/(?:resolve|blob)/main/(.+\.(?i:gguf))(?:\?.*)?")


@dataclass(frozen=True)
class HubSource:
    """wanted: a quantisation or the name of a file; empty for what suits most."""

    repo: str
    wanted: str = ""
    keeper, removal = "Hugging Face's cache", ""

    @classmethod
    def parse(cls, text: str) -> HubSource:
        """Raises StoreError."""
        match = re.fullmatch(r"([\w.-]+/[\w.-]+?)(?::([\w.-]+)|/(.+\.(?i:gguf)))?", text)
        if not match:
            raise NoModel(f"hf:{text} is not of the form hf:OWNER/REPO, hf:OWNER/REPO:QUANT or hf:OWNER/REPO/FILE")
        return cls(match[1], match[2] or match[3] or "")

    @classmethod
    def parse_url(cls, url: str) -> HubSource | None:
        """Of a file's page or download."""
        match = _URL.fullmatch(url)
        return cls(match[1], match[2]) if match else None

    def local(self) -> Path | None:
        """In the cache that huggingface_hub keeps."""
        for snapshot in _snapshots(self.repo):
            names = [path.relative_to(snapshot).as_posix() for path in _files(snapshot)]
            try:
                chosen = choose(names, self.wanted, self.repo)
            except StoreError:
                continue
            count = re.search(r"-of-(\d{5})\.gguf$", chosen[0], re.IGNORECASE)
            if not count or int(count[1]) == len(chosen):
                return snapshot / chosen[0]
        return None

    def fetch(self, folder: Path, progress: Progress) -> list[Path]:
        """Into Hugging Face's cache."""
        from huggingface_hub import HfApi, hf_hub_download
        from huggingface_hub.errors import OfflineModeIsEnabled

        try:
            with _told(self.repo):
                hub = HfApi(endpoint=_endpoint(), library_name="ggrun")
                info = hub.model_info(self.repo, files_metadata=True, timeout=30)
                files = {file.rfilename: file for file in info.siblings or ()}
                names = choose(files, self.wanted, self.repo)
                self._download([files[name] for name in names], str(info.sha), progress)
                where: dict[str, Any] = {"cache_dir": _cache(), "endpoint": _endpoint(), "library_name": "ggrun"}
                return [Path(hf_hub_download(self.repo, name, **where)) for name in names]
        except OfflineModeIsEnabled as error:
            if path := self.local():
                return list(parts(path))
            raise StoreError(f"hf:{self.repo} is not on this machine, and HF_HUB_OFFLINE forbids to get it") from error

    def remove(self, files: Iterable[Path]) -> None:
        """Remove files from the cache, in all revisions that have them."""
        snapshots = _folder(self.repo) / "snapshots"
        for blob in {file.resolve() for file in files}:
            for path in [path for path in snapshots.rglob("*") if path.resolve() == blob]:
                path.unlink()
            blob.unlink(missing_ok=True)
        if not any(path.is_file() for path in snapshots.rglob("*")):
            shutil.rmtree(_folder(self.repo), ignore_errors=True)

    def _download(self, files: Iterable[RepoSibling], revision: str, progress: Progress) -> None:
        """Put what the cache lacks where hf_hub_download finds it: unlike that, we go on after a cut, and check."""
        from filelock import FileLock
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import are_symlinks_supported
        from huggingface_hub.utils import build_hf_headers

        from .download import download_all

        blobs, remotes = _folder(self.repo) / "blobs", {}
        with contextlib.ExitStack() as locks:
            for file in files:
                if file.lfs is None or (file.size or 0) > _MAX_HTTP:
                    continue
                sha256, name = file.lfs.sha256, file.rfilename
                lock = _cache() / ".locks" / _folder(self.repo).name / f"{sha256}.lock"  # hf_hub_download's own
                lock.parent.mkdir(parents=True, exist_ok=True)
                locks.enter_context(FileLock(lock))
                pointer = _folder(self.repo) / "snapshots" / revision / name
                if pointer.exists() or (blobs / sha256).exists():
                    continue
                url = hf_hub_url(self.repo, name, revision=revision, endpoint=_endpoint())
                target = blobs / sha256 if are_symlinks_supported(_cache()) else pointer
                remotes[target] = Remote(url, name, file.size, sha256, build_hf_headers(library_name="ggrun"))
            download_all(remotes, progress)


@contextlib.contextmanager
def _told(repo: str) -> Iterator[None]:
    """Raises StoreError instead of huggingface_hub's errors."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        yield
    except (StoreError, OfflineModeIsEnabled):
        raise
    except GatedRepoError as error:
        raise StoreError(gated(repo)) from error
    except RepositoryNotFoundError as error:
        raise NoModel(
            f"Hugging Face has no {repo} that you may see: check the name, or give a token in HF_TOKEN"
        ) from error
    except HfHubHTTPError as error:
        raise StoreError(f"Hugging Face answers: {str(error).splitlines()[0]}") from error
    except Exception as error:  # the connection's errors are those of whatever library it uses
        cause = (isinstance(error, LocalEntryNotFoundError) and error.__cause__) or error
        reason = (str(cause).splitlines() or [""])[0] or type(cause).__name__
        raise StoreError(f"no answer from Hugging Face ({reason}): check the connection, and try again") from error


def choose(names: Iterable[str], wanted: str, repo: str) -> list[str]:
    """The files of a repository that are wanted: one model, in all its parts. Raises StoreError."""
    models: dict[str, list[str]] = {}
    for name in sorted(names):
        if is_gguf(name) and not re.search("mmproj|imatrix", name, re.IGNORECASE):
            models.setdefault(_stem(name), []).append(name)
    if not models:
        raise NoModel(f"{repo} holds no GGUF files: look for a repository whose name ends in -GGUF")
    if is_gguf(wanted):
        stem = _stem(wanted)
        if stem not in models:
            raise NoModel(f"{repo} has no {wanted}: it has {', '.join(models)}")
        return models[stem]
    for quant in [wanted] if wanted else _PREFERRED:
        pattern = re.compile(rf"(?:^|[-._/]){re.escape(quant)}(?=$|[-./])", re.IGNORECASE)
        if found := [stem for stem in models if pattern.search(stem)]:
            return models[min(found, key=len)]
    if not wanted and len(models) == 1:
        return next(iter(models.values()))
    quants = sorted({match[1] for stem in models if (match := _QUANT.search(stem))}) or list(models)
    raise NoModel(f"{repo} has {', '.join(quants)}: choose with hf:{repo}:{quants[0]}")


def cached() -> Iterator[StoredModel]:
    """Every model in the cache."""
    for folder in sorted(_cache().glob("models--*--*")):
        repo = "/".join(folder.name.split("--")[1:])
        for snapshot in _snapshots(repo)[:1]:
            for path in _files(snapshot):
                first = not _SPLIT.search(path.stem) or "-00001-of-" in path.name
                if first and not re.search("mmproj|imatrix", path.name, re.IGNORECASE):
                    file = path.relative_to(snapshot).as_posix()
                    yield kept_by(HubSource(repo, file), f"hf:{repo}/{file}", path)


def _stem(name: str) -> str:
    """What the parts of a model have in common."""
    return _SPLIT.sub("", name[: -len(".gguf")])


def _files(snapshot: Path) -> list[Path]:
    return sorted(path for path in snapshot.rglob("*") if is_gguf(path.name) and path.exists())


def _folder(repo: str) -> Path:
    """Of a repository in the cache."""
    return _cache() / f"models--{repo.replace('/', '--')}"


def _snapshots(repo: str) -> list[Path]:
    """Those of a repository in the cache; what "main" is comes first, then the latest."""
    folder = _folder(repo)
    snapshots = sorted((folder / "snapshots").glob("*"), key=lambda path: -path.stat().st_mtime)
    main = folder / "refs" / "main"
    current = main.read_text("utf-8").strip() if main.exists() else ""
    return sorted(snapshots, key=lambda path: path.name != current)


def _cache() -> Path:
    if folder := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return expanded(folder)
    cache = os.environ.get("XDG_CACHE_HOME") or home() / ".cache"
    return expanded(os.environ.get("HF_HOME") or Path(cache) / "huggingface") / "hub"


def _endpoint() -> str | None:
    """The site, as the environment names it now: huggingface_hub has read it once, when somebody first imported it."""
    return os.environ.get("HF_ENDPOINT") or None
