"""Requests made up from the server's own description, by schemathesis (see test_clients.py): no bug comes to light."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("schemathesis")

from tests.serving import Server  # noqa: E402

CHECKS = ("status_code_conformance", "content_type_conformance", "unsupported_method", "allow_header_conformance")


def test_whatever_is_asked(served_model: Path, tmp_path: Path) -> None:
    server = Server(served_model, "-c", 256, "--timeout", 10, folder=tmp_path)
    try:
        line = [str(Path(sys.executable).with_name("st")), "run", f"{server.url}/openapi.json", "--phases", "fuzzing"]
        line += ["-n", "10", "-w", "2", "--seed", "1", "-c", ",".join(CHECKS), "--continue-on-failure"]
        done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=500)
        assert done.returncode == 0, done.stdout[-3000:]
        statuses = Counter(line["status"] for line in server.log)
        assert statuses[200] > 50 and not statuses[500], statuses
    finally:
        server.close()
