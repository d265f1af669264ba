"""Where untrusted programs run: bubblewrap, a container, or only a process with limits."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from rsd_core import ConfigurationError

Choice = Literal["auto", "bwrap", "docker", "podman", "none"]
_INSIDE = "/sandbox"
_CODE = Path(__file__).with_name("sandboxed")
_START = """import sys, types
for name, folder in (("rsd_integrations", []), ("rsd_integrations.verifiers", [sys.argv[1]])):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = folder
from importlib import import_module
import_module("rsd_integrations.verifiers.sandboxed." + sys.argv[2]).start()
"""
"""Runs a module of `sandboxed` without its parent packages, which the sandbox lacks."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A way to run Python with nothing to read, write, contact or disturb."""

    name: str
    start: tuple[str, ...]
    """The command that starts Python in it."""
    folder: str
    """The folder with `sandboxed` in it, as seen from inside."""
    note: str = ""
    """Its limitations on this system."""
    patience: float = 0.0
    """Seconds it takes to stop, if killing the command does not kill what runs inside."""

    def command(self, module: str) -> list[str]:
        """The command that runs a module of `sandboxed`."""
        return [*self.start, "-I", "-S", "-c", _START, self.folder, module]

    def environment(self) -> dict[str, str]:
        """The environment for the command itself: a container client is found and configured through it."""
        return dict(os.environ) if self.name in ("docker", "podman") else {}


class _UnusableError(Exception):
    """Why a sandbox is unavailable."""


@cache
def find(choice: Choice) -> Sandbox:
    """The named sandbox, or for `auto` the first that works. Looked up once per process.

    Raises:
        ConfigurationError: The name is unknown, or the sandbox does not work here; says what to do.
    """
    if choice not in get_args(Choice):
        raise ConfigurationError(f"sandbox={choice} is unknown; there are {', '.join(get_args(Choice))}")
    if choice == "none":
        return Sandbox("none", (sys.executable,), str(_CODE.parent))
    reasons = []
    for name in [choice] if choice != "auto" else list(_WAYS):
        try:
            return _WAYS[name](name)
        except _UnusableError as error:
            reasons.append(f"{name} {error}")
    raise ConfigurationError(
        f"programs written by a model need a sandbox, and none is available: {'; '.join(reasons)}. Install "
        "bubblewrap (apt-get install bubblewrap), or let them run with read access to your files: "
        "code,sandbox=none:TESTS"
    )


def _bubblewrap(name: str) -> Sandbox:
    program = _installed(name)
    python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    libraries, folders = _needed(python), _standard_library()
    files = [part for path in _parents([*libraries, *folders]) for part in ("--dir", path)]
    files += [part for path in [*libraries, *folders] for part in ("--ro-bind", path, path)]
    files += [part for path in _packages(folders) for part in ("--tmpfs", path, "--remount-ro", path)]
    apart = ("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try")
    common = [*apart, "--hostname", "sandbox", "--new-session", "--die-with-parent", "--cap-drop", "ALL"]
    rest = [*files, "--ro-bind", str(_CODE), f"{_INSIDE}/sandboxed", "--remount-ro", "/", "--chdir", "/", "--", python]
    as_user = [program, "--unshare-user", "--uid", "65534", "--gid", "65534", *common, *rest]
    ways = [(as_user, "")]
    if os.geteuid() == 0:
        # Root in a user namespace is still root outside and may start any number of processes: become nobody instead.
        become = ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        ways = [([program, *common, *become, *rest], ""), (as_user, "root may start processes in it")]
    return _first_that_works(Sandbox(name, tuple(command), _INSIDE, note) for command, note in ways)


def _container(name: str) -> Sandbox:
    program = _installed(name)
    listed = _output([program, "images", "--format", "{{.Repository}}:{{.Tag}}"]).split()
    images = [image for image in listed if re.search(r"(^|/)python:(?!<none>)", image)]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    images.sort(key=lambda image: (f":{version}" not in image, "slim" not in image, image))
    if not images:
        raise _UnusableError(f"has no Python image ({name} pull python:{version}-slim)")
    apart = ["--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    limits = [
        "--user",
        "65534:65534",
        "--ulimit",
        "nofile=64:64",
        "--ulimit",
        "nproc=64:64",
        "--pull",
        "never",
        "--workdir",
        "/",
    ]
    apart += ["--read-only-tmpfs=false"] if name == "podman" else []
    code = ["--volume", f"{_CODE}:{_INSIDE}/sandboxed:ro", "--entrypoint", "python3"]
    run = [program, "run", "--rm", "--interactive", *apart, *limits, *code]
    return _first_that_works(Sandbox(name, (*run, image), _INSIDE, patience=10.0) for image in images[:3])


_WAYS = {"bwrap": _bubblewrap, "docker": _container, "podman": _container}


def _installed(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise _UnusableError("is not installed")
    return found


def _output(command: Sequence[str], text: str = "") -> str:
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _UnusableError(f"does not work: {error}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise _UnusableError(f"does not work: {lines[-1]}")
    return done.stdout


def _first_that_works(ways: Iterator[Sandbox]) -> Sandbox:
    reasons = []
    for sandbox in ways:
        try:
            _check(sandbox)
        except _UnusableError as error:
            reasons.append(str(error))
        else:
            return sandbox
    raise _UnusableError("; ".join(dict.fromkeys(reasons)))


def _check(sandbox: Sandbox) -> None:
    """Check that the sandbox isolates.

    Raises:
        _UnusableError: It does not start, or does not isolate.
    """
    with tempfile.NamedTemporaryFile() as file, socket.create_server(("127.0.0.1", 0)) as server:
        os.chmod(file.name, 0o644)
        sought = {"file": file.name, "port": server.getsockname()[1]}
        found = json.loads(_output(sandbox.command("probe"), json.dumps(sought)) or "[]")
    if found:
        raise _UnusableError(f"isolates too little: {', '.join(found)}")


# -- what Python needs ------------------------------------------------------------------------------------------------


def _standard_library() -> list[str]:
    names = ("stdlib", "platstdlib")
    base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    return sorted({os.path.realpath(sysconfig.get_path(name, vars=base)) for name in names})


def _packages(folders: Sequence[str]) -> list[str]:
    """Folders with installed packages inside the standard library, to be hidden from programs."""
    names = ("site-packages", "dist-packages")
    return [path for folder in folders for name in names if os.path.isdir(path := os.path.join(folder, name))]


def _parents(paths: Sequence[str]) -> list[str]:
    """The parent folders of paths, from the top, accessible to all: bubblewrap would copy restrictive permissions."""
    return sorted({str(parent) for path in paths for parent in Path(path).parents} - {"/"})


_FOR_PEOPLE = ("_tkinter", "_curses", "readline", "nis", "ossaudiodev")
"""Modules useless without screen, keyboard and network, with many libraries."""


def _needed(python: str) -> list[str]:
    """The interpreter and its and the standard library's shared libraries, each under the name it is looked up by.

    Raises:
        _UnusableError: The system does not report them.
    """
    found = [file for folder in _standard_library() for file in Path(folder, "lib-dynload").glob("*.so")]
    modules = [str(file) for file in found if not file.name.startswith(_FOR_PEOPLE)]
    output = _output([_installed_as("ldd"), python, *modules])
    libraries = re.findall(r"(?:=> |^\s+)(/\S+) \(0x", output, re.MULTILINE)
    cache_of_names = ["/etc/ld.so.cache"] if os.path.exists("/etc/ld.so.cache") else []
    return [python, *sorted(set(libraries)), *cache_of_names]


def _installed_as(name: str) -> str:
    try:
        return _installed(name)
    except _UnusableError as error:
        raise _UnusableError(f"cannot be set up: {name} {error}") from error
