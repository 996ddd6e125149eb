"""The disk cache: whole records, replaced atomically. What it gives back is foreign bytes."""

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Final

RECORD_BYTES_MAX: Final = 3 * 1024 * 1024


class DiskCache:
    """Records by key in one directory.

    Args:
        directory: created if it is not there. The host may read and change it: callers verify what they load.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load_untrusted(self, key: str) -> bytes | None:
        """Return a record's bytes; None if there is none of an acceptable size. Blocking."""
        try:
            with self._path(key).open("rb") as file:
                data = file.read(RECORD_BYTES_MAX + 1)
        except FileNotFoundError:
            return None
        return data if len(data) <= RECORD_BYTES_MAX else None

    def store(self, key: str, data: bytes) -> None:
        """Replace a record. A crash leaves the old one or the new one, never half of one. Blocking.

        Raises:
            OSError: the directory cannot be written.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self._directory, prefix=f".{key}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self._path(key))
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                Path(name).unlink()
            raise

    def discard(self, key: str) -> None:
        """Remove a record that did not verify. Blocking."""
        self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        assert key.isalnum(), "a cache key is hex digits"
        return self._directory / f"{key}.json"
