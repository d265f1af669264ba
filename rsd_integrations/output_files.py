"""Files that commands and evaluations write: tried before the work begins, and never half written."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from rsd_core import ConfigurationError, RSDError

ROOM = 4096
"""Bytes that are written on trial; a file system that is full refuses them."""


def check_output(file: Path, option: str) -> None:
    """Find out whether a file can be written, before hours of work go into it; nothing of it is touched.

    Args:
        file: What is to be written. A device, such as `/dev/stdout`, is taken as it is.
        option: How the user named it, for the message.

    Raises:
        ConfigurationError: It is a folder, its folder is missing or read-only, or the disk is full.
    """
    try:
        if _is_device(file):
            return
        target = file.resolve()
        if target.is_dir():
            raise ConfigurationError(f"{option} {file} is a folder; name a file in it")
        if not target.parent.is_dir():
            raise ConfigurationError(f"{option} {file}: the folder {target.parent} does not exist; make it first")
        if target.exists():
            os.close(os.open(target, os.O_WRONLY))  # a file that is read-only is so for a reason
        trial = _beside(target)
        try:
            trial.write_bytes(bytes(ROOM))
        finally:
            trial.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:  # the latter of links in a circle
        raise ConfigurationError(f"{option} {file} cannot be written: {_why(error)}; name another file") from error


def write_output(file: Path, write: str | Callable[[Path], object]) -> None:
    """Write a whole file in UTF-8: under another name first, so that an earlier one is there until the new one is.

    Where that fails, for a disk that has filled up for example, the file goes into the folder for temporary files.

    Args:
        file: What to write. A link is followed; a device is written in place.
        write: The text, or what writes it to a path of the same suffix.

    Raises:
        RSDError: It could not be written there; the message says where it is instead.
    """
    try:
        if _is_device(file):
            _write(file, write)
            return
        target = file.resolve()
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
    """A file that is there as a whole or not at all: it is written under another name, and takes its own at the end.

    Args:
        file: Does not exist yet; its folder does.

    Yields:
        Where to write.

    Raises:
        ConfigurationError: The file exists, or none can be made there.
        RSDError: It could not be written to its end; nothing is left of it.
    """
    if file.exists():
        raise ConfigurationError(f"{file} exists; choose another file")
    check_output(file, "the file")
    target = file.resolve()
    fresh = _beside(target)
    try:
        yield fresh
        if target.exists():  # by now
            raise ConfigurationError(f"{file} exists; choose another file")
        fresh.rename(target)
    except OSError as error:
        raise RSDError(f"{file} cannot be written: {error.strerror or error}; make room, then run again") from error
    finally:
        fresh.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder that is there as a whole or not at all: it is written under another name, and takes its own at the end.

    Args:
        folder: Does not exist yet, or is empty. Folders above it are made.

    Yields:
        Where to write.

    Raises:
        ConfigurationError: The folder holds something, or none can be made there.
        RSDError: It could not be written to its end; nothing is left of it.
    """
    try:
        target = folder.resolve()
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            holds = "holds a checkpoint already" if (target / "config.json").exists() else "is no empty folder"
            raise ConfigurationError(f"{folder} {holds}; choose another folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        (fresh / "trial").write_bytes(bytes(ROOM))
        (fresh / "trial").unlink()
    except (OSError, RuntimeError) as error:  # the latter of links in a circle
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
    """Whether a file is written in place; asked of the name as given: a pipe behind `/dev/stdout` has no other."""
    return file.exists() and not file.is_file() and not file.is_dir()


def _why(error: OSError | RuntimeError) -> object:
    return getattr(error, "strerror", None) or error


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
