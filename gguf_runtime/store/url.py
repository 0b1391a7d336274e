"""Models from anywhere: a URL of a GGUF file, or of the first part of a split one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .progress import Progress
from .source import Remote, file_name


@dataclass(frozen=True)
class UrlSource:
    """Nothing is known of it before, so nothing but its length is checked."""

    url: str
    keeper = removal = ""  # nobody keeps URLs

    def local(self) -> None:
        return None

    def fetch(self, folder: Path, progress: Progress) -> list[Path]:
        from .download import download_all

        return download_all(
            [Remote(url, file_name(unquote(urlsplit(url).path))) for url in _parts(self.url)], folder, progress
        )


def _parts(url: str) -> list[str]:
    match = re.search(r"-00001-of-(\d{5})\.gguf(?=$|\?)", url)
    if not match:
        return [url]
    return [f"{url[: match.start()]}-{i + 1:05}-of-{match[1]}.gguf{url[match.end() :]}" for i in range(int(match[1]))]
