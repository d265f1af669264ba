"""Output files of commands and evaluations: checked before the work begins, and never half written."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from rsd_core import ConfigurationError, RSDError

ROOM = 4096
"""Bytes written as a test; a full file system refuses them."""


def real_path(path: Path) -> Path:
    """A path without links.

    Raises:
        OSError: Its links lead in a circle.
    """
    try:
        real = path.resolve()
    except RuntimeError:  # links in a circle, before Python 3.13, which leaves them as they are
        real = path
    if real.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return real


def check_output(file: Path, option: str) -> None:
    """Check that a file can be written, before hours of work go into it, without touching it.

    Args:
        file: The file to write. A device, such as `/dev/stdout`, is accepted unchecked.
        option: The option that named it, for the message.

    Raises:
        ConfigurationError: It is a folder, its folder is missing or read-only, or the disk is full.
    """
    try:
        if _is_device(file):
            return
        target = real_path(file)
        if target.is_dir():
            raise ConfigurationError(f"{option} {file} is a folder; give a file in it")
        if not target.parent.is_dir():
            raise ConfigurationError(f"{option} {file}: the folder {target.parent} does not exist; create it first")
        if target.exists():
            os.close(os.open(target, os.O_WRONLY))  # respect a read-only file
        trial = _beside(target)
        try:
            trial.write_bytes(bytes(ROOM))
        finally:
            trial.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{option} {file} cannot be written: {_why(error)}; name another file") from error


def write_output(file: Path, write: str | Callable[[Path], object]) -> None:
    """Write a whole file in UTF-8: under a temporary name first, so that an earlier file survives a failure.

    If that fails, for example because the disk is full, the file goes into the folder for temporary files.

    Args:
        file: The file to write. A link is followed; a device is written in place.
        write: The text, or a function that writes it to a path with the same suffix.

    Raises:
        RSDError: It could not be written there; the message says where it is instead.
    """
    try:
        if _is_device(file):
            _write(file, write)
            return
        target = real_path(file)
        fresh = _beside(target)
        try:
            _write(fresh, write)
            if target.exists():
                shutil.copymode(target, fresh)
            os.replace(fresh, target)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        raise RSDError(f"{file} cannot be written: {error.strerror}. {_rescued(file, write)}") from error


@contextlib.contextmanager
def new_file(file: Path) -> Iterator[Path]:
    """A file that appears complete or not at all: it is written under a temporary name and renamed at the end.

    Args:
        file: Must not exist yet; its folder must.

    Yields:
        Where to write.

    Raises:
        ConfigurationError: The file exists, or cannot be created.
        RSDError: It could not be written to its end; nothing is left of it.
    """
    if file.exists():
        raise ConfigurationError(f"{file} exists; choose another file")
    check_output(file, "the file")
    target = real_path(file)
    fresh = _beside(target)
    try:
        yield fresh
        if target.exists():  # created meanwhile
            raise ConfigurationError(f"{file} exists; choose another file")
        fresh.rename(target)
    except OSError as error:
        raise RSDError(f"{file} cannot be written: {error.strerror or error}; make room, then run again") from error
    finally:
        fresh.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder that appears complete or not at all: it is written under a temporary name and renamed at the end.

    Args:
        folder: Must not exist yet, or be empty. Parent folders are created.

    Yields:
        Where to write.

    Raises:
        ConfigurationError: The folder is not empty, or cannot be created.
        RSDError: It could not be written to its end; nothing is left of it.
    """
    try:
        target = real_path(folder)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            holds = "already contains a checkpoint" if (target / "config.json").exists() else "is not an empty folder"
            raise ConfigurationError(f"{folder} {holds}; choose another folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        (fresh / "trial").write_bytes(bytes(ROOM))
        (fresh / "trial").unlink()
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be written: {_why(error)}; choose another folder") from error
    try:
        yield fresh
        fresh.chmod(0o777 & ~_umask())
        if target.exists():
            target.rmdir()
        fresh.rename(target)
    except OSError as error:
        raise RSDError(f"{folder} cannot be written: {error.strerror or error}; make room, then run again") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _is_device(file: Path) -> bool:
    """Whether a file is written in place; checks the name as given, since a pipe behind `/dev/stdout` has no other."""
    return file.exists() and not file.is_file() and not file.is_dir()


def _why(error: OSError) -> object:
    return error.strerror or error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _rescued(file: Path, write: str | Callable[[Path], object]) -> str:
    try:
        place = Path(tempfile.mkdtemp(prefix="rsd-")) / file.name
        _write(place, write)
    except OSError as error:
        return f"Nor can it be written elsewhere ({error.strerror}); make room, then run the command again"
    return f"It is in {place} instead"


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")


def _write(place: Path, write: str | Callable[[Path], object]) -> None:
    if callable(write):
        write(place)
        return
    with place.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as out:
        out.write(write)
        out.flush()
        if place.is_file():
            os.fsync(out.fileno())
