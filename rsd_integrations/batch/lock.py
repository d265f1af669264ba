"""One writer at a time: a lock that the operating system releases when its process ends, however it ends."""

from __future__ import annotations

import os
import time
from pathlib import Path

from rsd_core import ConfigurationError, MissingDependency
from rsd_integrations.output_files import real_path

PATIENCE = 1.0
"""Seconds that a process may take between taking the lock and noting its id."""


class WriterLock:
    """The lock of a file, held from construction to `release`.

    It consists of two small files next to it, so that the file itself can be read meanwhile on any system.

    Args:
        file: The file to write.

    Raises:
        ConfigurationError: Another process holds the lock, or files in that folder cannot be locked.
    """

    def __init__(self, file: Path) -> None:
        try:
            from portalocker import AlreadyLocked, LockException, PidFileLock
        except ModuleNotFoundError as missing:
            raise MissingDependency(
                "portalocker", "cli", "a journal, which one process may write at a time,"
            ) from missing
        try:
            real = real_path(file)  # one lock for all links to it
        except OSError as error:
            raise ConfigurationError(f"{file} cannot be found: {error.strerror or error}; name another file") from error
        if not real.parent.is_dir():
            raise ConfigurationError(f"{file}: the folder {real.parent} does not exist; create it first")
        self._lock = PidFileLock(real.with_name(f".{real.name}.writer"), timeout=0)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self._lock.acquire()
                return
            except AlreadyLocked:
                writer = self._lock.read_pid()
                if writer is None and time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                raise ConfigurationError(f"{file} is being written by {_named(writer)}; wait until it ends") from None
            except (LockException, OSError) as error:
                why = error.strerror if isinstance(error, OSError) else error
                raise ConfigurationError(
                    f"{file} cannot be locked in its folder: {why}; name a file in another folder"
                ) from error

    def release(self) -> None:
        """Let others write."""
        self._lock.release()


def _named(writer: int | None) -> str:
    if writer is None:
        return "another process"
    return "this process" if writer == os.getpid() else f"process {writer}"
