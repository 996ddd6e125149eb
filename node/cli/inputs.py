"""What a user names on a command line: times, and files to write."""

from datetime import UTC, datetime
from pathlib import Path

from attestation import files
from attestation.files import FileError
from node.errors import ConfigError


def write_file(path: Path, data: bytes) -> None:
    """Write a file that the user requested.

    Raises:
        ConfigError: the file cannot be written; exit code 2.
    """
    try:
        files.write_output(path, data)
    except FileError as exc:
        raise ConfigError(str(exc)) from exc


def parse_time(text: str) -> datetime:
    """Parse Unix seconds, or ISO 8601 with a zone (``Z`` or an offset; without one, UTC)."""
    try:
        if text.isascii() and text.isdigit():
            return datetime.fromtimestamp(int(text), UTC)
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError) as exc:
        raise ConfigError(f"{text!r} is neither Unix seconds nor an ISO 8601 time") from exc
