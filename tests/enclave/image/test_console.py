import base64
import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave.image.console import boot_log_untrusted
from enclave.image.errors import MalformedImageError

LOG = bytes(range(256)) * 40


def lines(log=LOG, *, kind="tpm", step=6000, skip=None):
    found = []
    for at in range(0, len(log), step):
        if at == skip:
            continue
        record = {
            "event": "boot-log",
            "kind": kind,
            "offset": at,
            "size": len(log),
            "data": base64.b64encode(log[at : at + step]).decode(),
        }
        found.append(json.dumps(record).encode())
    return found


def test_a_log_is_put_together_from_among_other_output():
    console = b"\r\n".join(
        [b"\x1b[2J[ 1.0] kernel", b'{"event": "start"}', *lines(kind="ccel"), *lines(), b"{"]
    )

    assert boot_log_untrusted(console, "tpm") == LOG


def test_of_two_boots_on_one_console_the_last_counts():
    console = b"\n".join([*lines(b"first" * 2000), *lines()])

    assert boot_log_untrusted(console, "tpm") == LOG


@pytest.mark.parametrize(
    ("console", "reason"),
    [
        (b"", "console-no-log"),
        (b"\n".join(lines(kind="ccel")), "console-no-log"),
        (b"\n".join(lines(skip=0)), "console-gap"),
        (b"\n".join(lines()[:1]), "console-no-log"),
        (b'{"event": "boot-log"}', "console-line"),
        (b'{"event": "boot-log", "kind": "tpm", "data": "?", "offset": 0, "size": 1}', "console-line"),
        (b'{"event": "boot-log", "kind": "tpm", "data": "", "offset": 7, "size": 1}', "console-gap"),
    ],
)
def test_a_log_that_is_not_whole_is_refused(console, reason):
    with pytest.raises(MalformedImageError) as caught:
        boot_log_untrusted(console, "tpm")

    assert caught.value.reason == reason


@settings(deadline=None)
@given(st.binary(max_size=100), st.text(max_size=60))
def test_foreign_consoles_raise_the_declared_error_only(noise, text):
    with contextlib.suppress(MalformedImageError):
        boot_log_untrusted(noise + b'\n{"event": "boot-log", ' + text.encode(), "tpm")
