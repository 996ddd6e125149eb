"""The disk cache: whole records, replaced atomically. A caller must treat loaded bytes as untrusted."""

import logging
from pathlib import Path
from typing import Final

from attestation import files
from attestation.files import FileError

RECORD_BYTES_MAX: Final = 3 * 1024 * 1024

_log = logging.getLogger(__name__)


class DiskCache:
    """Records by key in one directory.

    Args:
        directory: created if it is not there. The host may read and change it: callers verify what they load.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load_untrusted(self, key: str) -> bytes | None:
        """Return a record's bytes; None if no record can be read. Blocking."""
        try:
            return files.read_bytes(self._path(key), bytes_max=RECORD_BYTES_MAX)
        except FileError as exc:
            if not exc.absent:
                _log.warning("the collateral cache: %s", exc)
            return None

    def store(self, key: str, data: bytes) -> None:
        """Replace a record. A crash leaves the old one or the new one, never half of one. Blocking.

        Raises:
            FileError: the directory cannot be written.
        """
        files.make_directory(self._directory)
        files.replace(self._path(key), data, mode=0o600, durable=True)

    def discard(self, key: str) -> None:
        """Remove a record that did not verify, if it can be removed. Blocking."""
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as exc:
            _log.warning("the collateral cache: cannot remove %s: %s", self._path(key), exc.strerror)

    def _path(self, key: str) -> Path:
        assert key.isalnum(), "a cache key is hex digits"
        return self._directory / f"{key}.json"
