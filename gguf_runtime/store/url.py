"""Models from anywhere: a URL of a GGUF file, or of the first part of a split one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from .errors import StoreError
from .progress import Progress
from .source import Remote, file_name

_SAFE = "%/:?#[]@!$&'()*+,;=~"  # what has a meaning in a URL


@dataclass(frozen=True)
class UrlSource:
    """Nothing is known of it before, so nothing but its length is checked."""

    url: str
    keeper = removal = ""  # nobody keeps URLs

    @classmethod
    def parse(cls, url: str) -> UrlSource:
        """Raises StoreError for what is no URL."""
        try:
            parts = urlsplit(url)
            if not (host := parts.hostname):
                raise ValueError("it names no host")
            _ = parts.port, host.encode("idna"), url.encode()  # raise ValueError
        except ValueError as error:
            raise StoreError(f"{url} is not a URL: {error}") from None
        return cls(url)

    def local(self) -> None:
        return None

    def fetch(self, folder: Path, progress: Progress) -> list[Path]:
        from .download import download_all

        urls = _parts(quote(self.url, safe=_SAFE))  # it may have spaces, and letters that are not ASCII
        remotes = [Remote(url, file_name(unquote(urlsplit(url).path))) for url in urls]
        return download_all({folder / remote.name: remote for remote in remotes}, progress)


def _parts(url: str) -> list[str]:
    match = re.search(r"-00001-of-(\d{5})(\.(?i:gguf))(?=$|\?)", url)
    if not match:
        return [url]
    count, rest = match[1], match[2] + url[match.end() :]
    return [f"{url[: match.start()]}-{i + 1:05}-of-{count}{rest}" for i in range(int(count))]
