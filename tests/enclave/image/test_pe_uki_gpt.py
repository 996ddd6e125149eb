import hashlib
import struct
import zlib
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave.image.errors import MalformedImageError
from enclave.image.gpt import Partition, encode_gpt, gpt_event_untrusted
from enclave.image.pe import authenticode_sha384, parse_executable_untrusted
from enclave.image.uki import build_uki, uki_events
from tests.enclave.image import blobs

UKI_SECTIONS = (
    (".osrel", b"ID=bondstone\n"),
    (".cmdline", b"console=ttyS0"),
    (".uname", b"6.12"),
    (".initrd", b"initrd!"),
    (".linux", blobs.executable(((".text", b"kernel"),))),
)


def digest(data):
    return authenticode_sha384(parse_executable_untrusted(data))


def test_signing_an_executable_does_not_change_its_digest_and_any_other_byte_does():
    plain = blobs.executable()
    signed = blobs.executable(certificate=b"certificate!" * 4)

    assert digest(signed) == digest(plain)
    checksum, entry = 0x80 + 24 + 64, 0x80 + 24 + 112 + 32
    for offset in range(0x80, len(plain), 7):
        other = bytearray(plain)
        other[offset] ^= 1
        try:
            changed = digest(bytes(other)) != digest(plain)
        except MalformedImageError:
            continue
        left_out = checksum <= offset < checksum + 4 or entry <= offset < entry + 8
        assert changed == (not left_out), offset


def test_the_digest_covers_headers_sections_by_file_offset_and_trailing_bytes():
    data = blobs.executable(((".a", b"a" * 600), (".b", b"b")), trailing=b"tail", certificate=b"c" * 8)
    checksum, entry = 0x80 + 24 + 64, 0x80 + 24 + 112 + 32
    kept = data[:checksum] + data[checksum + 4 : entry] + data[entry + 8 : -8]

    assert digest(data) == hashlib.sha384(kept).digest()


def test_sections_larger_than_the_file_are_refused():
    data = bytearray(blobs.executable(certificate=b"c" * 8))
    struct.pack_into("<I", data, 0x80 + 24 + 112 + 32 + 4, len(data))

    with pytest.raises(MalformedImageError) as caught:
        digest(bytes(data))
    assert caught.value.reason == "pe-overlap"


@settings(deadline=None)
@given(st.integers(0, 0x400), st.binary(min_size=1, max_size=4))
def test_damaged_executables_raise_the_declared_error_only(offset, damage):
    data = bytearray(blobs.executable(UKI_SECTIONS))
    data[offset : offset + len(damage)] = damage
    try:
        parsed = parse_executable_untrusted(bytes(data))
        authenticode_sha384(parsed)
        uki_events(parsed)
    except MalformedImageError:
        pass


def stub(room=b""):
    return blobs.executable(((".text", b"stub" + room), (".sbat", b"sbat,1\n")))


def test_a_uki_keeps_its_sections_and_its_stub():
    uki = parse_executable_untrusted(build_uki(stub(), UKI_SECTIONS))

    assert [item.name for item in uki.sections] == [".text", ".sbat", *(name for name, _ in UKI_SECTIONS)]
    for name, contents in UKI_SECTIONS:
        assert uki.contents(name) == contents
    ends = [item.address + item.memory_bytes for item in uki.sections]
    starts = [item.address for item in uki.sections]
    assert all(start % 4096 == 0 for start in starts)
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))


def test_the_stub_measures_sections_in_its_own_order_then_the_kernel_measures_its_inputs():
    labels = [item.label for item in uki_events(parse_executable_untrusted(build_uki(stub(), UKI_SECTIONS)))]

    sections = [".linux", ".osrel", ".cmdline", ".initrd", ".uname", ".sbat"]
    expected = [text for name in sections for text in (f"name of section {name}", f"section {name}")]
    assert labels == [*expected, "kernel load options", "initrd"]


def test_the_kernel_of_a_uki_sees_the_initrd_padded_and_the_archive_of_the_stub():
    events = uki_events(parse_executable_untrusted(build_uki(stub(), UKI_SECTIONS)))

    osrel = UKI_SECTIONS[0][1]

    def head(*fields):
        return b"070701" + "".join(f"{field:08x}" for field in fields).encode()

    folder = head(1, 0o40555, 0, 0, 1, 0, 0, 0, 0, 0, 0, 7, 0) + b".extra\0"
    file = head(2, 0o100444, 0, 0, 1, 0, len(osrel), 0, 0, 0, 0, 18, 0) + b".extra/os-release\0"
    trailer = head(0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 11, 0) + b"TRAILER!!!\0\0\0\0"
    trailer = trailer.replace(b"0000000b", b"0000000B")  # as a literal in the stub

    def pad(data):
        return data + bytes(-len(data) % 4)

    seen = pad(b"initrd!") + pad(folder) + pad(file) + pad(osrel) + trailer
    assert events[-1].digest == hashlib.sha384(seen).digest()
    assert len(trailer) == 124
    assert events[-2].digest == hashlib.sha384("console=ttyS0\0".encode("utf-16-le")).digest()


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        (UKI_SECTIONS[1:], "uki-section-missing"),
        ((*UKI_SECTIONS, (".profile", b"x")), "uki-section-unsupported"),
        ((*UKI_SECTIONS, (".cmdline", b"x")), "pe-section-duplicate"),
        (UKI_SECTIONS * 6, "uki-header-full"),
    ],
)
def test_a_uki_that_cannot_be_predicted_is_refused(sections, reason):
    with pytest.raises(MalformedImageError) as caught:
        uki_events(parse_executable_untrusted(build_uki(stub(), sections)))

    assert caught.value.reason == reason


def test_a_signed_stub_is_refused():
    with pytest.raises(MalformedImageError) as caught:
        build_uki(blobs.executable(certificate=b"x" * 8), UKI_SECTIONS)

    assert caught.value.reason == "uki-stub-signed"


ESP = Partition(
    type=UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b"),
    id=UUID("11111111-2222-3333-4444-555555555555"),
    first=2048,
    last=4095,
    name="ESP",
)


def disk():
    sectors = 8192
    head, tail = encode_gpt((ESP,), disk_id=UUID(int=5), sectors=sectors)
    return head + bytes(sectors * 512 - len(head) - len(tail)) + tail


def test_the_gpt_event_is_header_count_and_entries_in_use():
    data = disk()

    assert gpt_event_untrusted(data) == data[512:604] + (1).to_bytes(8, "little") + data[1024:1152]


def test_both_copies_of_a_partition_table_are_valid():
    data = disk()

    last = data[-512:]
    assert last[:8] == b"EFI PART"
    assert zlib.crc32(last[:16] + bytes(4) + last[20:92]) == int.from_bytes(last[16:20], "little")
    start = int.from_bytes(last[72:80], "little") * 512
    assert data[start : start + 128 * 128] == data[1024 : 1024 + 128 * 128]
    assert data[510:512] == b"\x55\xaa"


@pytest.mark.parametrize(
    ("offset", "reason"), [(512, "gpt-signature"), (560, "gpt-checksum"), (1030, "gpt-checksum")]
)
def test_a_damaged_partition_table_is_refused(offset, reason):
    data = bytearray(disk())
    data[offset] ^= 1

    with pytest.raises(MalformedImageError) as caught:
        gpt_event_untrusted(bytes(data))
    assert caught.value.reason == reason
