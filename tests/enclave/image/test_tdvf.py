import contextlib
import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave.image.errors import MalformedImageError, UnsupportedFirmwareError
from enclave.image.tdvf import PageOrder, SectionType, mrtd, parse_firmware_untrusted
from tests.enclave.image import blobs

# Public firmware, by SHA-256, with MRTD for both page orders. The two-pass values are also what mosaik's own code prints.
GOLDEN = {
    "14954040cc754ade0c625ac3470ea46d4c14318b5b1396de4ef77090203d76db": (
        "bdc6fb145880f06f30c8b346b8dce2a99d9351b56892df22f80fcf6574caa9f9c31df8e8576d53b4d0cd1c3f28910e11",
        "456f07902150d008bb913c3e1e84e9297f735a6c83cd2a957a1f0a8bbedb06df188e3837ae48d32c73d473d097dc0db2",
    ),
}


def find_firmware(sha256):
    candidates = [Path("/usr/share/ovmf/OVMF.fd")]
    candidates += sorted((blobs.PROJECT / "tdx-images" / "out").glob("*/OVMF.fd"))
    if "BONDSTONE_OVMF" in os.environ:
        candidates.insert(0, Path(os.environ["BONDSTONE_OVMF"]))
    for candidate in candidates:
        if candidate.is_file():
            data = candidate.read_bytes()
            if hashlib.sha256(data).hexdigest() == sha256:
                return data
    pytest.skip(f"the firmware with SHA-256 {sha256[:8]}… is not here: build an image, or set BONDSTONE_OVMF")


@pytest.mark.parametrize("sha256", GOLDEN)
def test_mrtd_of_public_firmware_is_the_published_value(sha256):
    firmware = parse_firmware_untrusted(find_firmware(sha256))

    interleaved, two_pass = GOLDEN[sha256]
    assert mrtd(firmware, PageOrder.INTERLEAVED).hex() == interleaved
    assert mrtd(firmware, PageOrder.TWO_PASS).hex() == two_pass


def test_mrtd_is_the_digest_of_the_tdx_modules_records_in_both_orders():
    firmware = parse_firmware_untrusted(blobs.firmware())

    def add(address):
        return b"MEM.PAGE.ADD\0\0\0\0" + address.to_bytes(8, "little") + bytes(104)

    def measure(address, data):
        return b"".join(
            b"MR.EXTEND\0\0\0\0\0\0\0"
            + (address + at).to_bytes(8, "little")
            + bytes(104)
            + data[at : at + 256]
            for at in range(0, 4096, 256)
        )

    code = firmware.data[blobs.CFV_BYTES :]
    first, second = 0xFFFFE000, 0xFFFFF000
    rest = [add(0xFFFFD000), add(0x809000), add(0x80A000)]
    rest += [add(0x800000 + at) for at in range(0, 0x6000, 4096)]
    interleaved = [add(first), measure(first, code), add(second), measure(second, code[4096:]), *rest]
    two_pass = [add(first), add(second), measure(first, code), measure(second, code[4096:]), *rest]
    assert mrtd(firmware, PageOrder.INTERLEAVED) == hashlib.sha384(b"".join(interleaved)).digest()
    assert mrtd(firmware, PageOrder.TWO_PASS) == hashlib.sha384(b"".join(two_pass)).digest()


def test_any_changed_byte_of_the_code_changes_mrtd_and_of_the_variable_store_does_not():
    good = blobs.firmware()
    before = mrtd(parse_firmware_untrusted(good), PageOrder.INTERLEAVED)

    for offset, changes in ((10, False), (blobs.CFV_BYTES + 4096, True), (len(good) - 1, True)):
        other = bytearray(good)
        other[offset] ^= 1
        after = mrtd(parse_firmware_untrusted(bytes(other)), PageOrder.INTERLEAVED)
        assert (after != before) == changes


def test_pages_that_are_added_by_the_guest_itself_are_not_measured():
    augmented = blobs.section(0, 0, 0x900000, 0x2000, 3, 2)

    plain = parse_firmware_untrusted(blobs.firmware())
    more = parse_firmware_untrusted(blobs.firmware((*blobs.SECTIONS, augmented)))
    # The table itself lies in measured code, so the code differs; compare what follows it.
    assert more.sections[:-1] == plain.sections
    assert more.sections[-1].augmented
    same_code = type(plain)(data=more.data, sections=more.sections[:-1])
    assert mrtd(more, PageOrder.INTERLEAVED) == mrtd(same_code, PageOrder.INTERLEAVED)


def test_firmware_without_tdvf_metadata_is_refused_by_name():
    for data in (bytes(blobs.FIRMWARE_BYTES), blobs.firmware(metadata=bytes(16))):
        with pytest.raises(UnsupportedFirmwareError) as caught:
            parse_firmware_untrusted(data)
        assert caught.value.reason == "tdvf-metadata-absent"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (blobs.firmware(version=2), "tdvf-version"),
        (blobs.firmware(count=65), "tdvf-section-count"),
        (blobs.firmware(count=5), "tdvf-section-count"),
        (blobs.firmware(distance=0xFFFFFFF0), "tdvf-offset"),
        (blobs.firmware(distance=4), "tdvf-offset"),
        (blobs.firmware(distance=0x1100), "tdvf-signature"),
        (blobs.firmware((blobs.section(0, 0, 0x800001, 4096, 3, 0),)), "tdvf-alignment"),
        (blobs.firmware((blobs.section(0, 0, 0x800000, 4097, 3, 0),)), "tdvf-alignment"),
        (blobs.firmware((blobs.section(0, 8192, 0x800000, 4096, 0, 1),)), "tdvf-section-size"),
        (blobs.firmware((blobs.section(0, 0, 0, 1 << 40, 3, 0),)), "tdvf-section-size"),
        (blobs.firmware((blobs.section(0x2FFF, 4096, 0, 4096, 0, 1),)), "tdvf-truncated"),
        (blobs.firmware((blobs.section(0, 0, 0, 4096, 4, 0),)), "tdvf-section-type"),
        (blobs.firmware((blobs.section(0, 0, 0, 4096, 3, 4),)), "tdvf-section-attributes"),
        (b"", "firmware-size"),
    ],
)
def test_contradictory_metadata_are_refused(data, reason):
    with pytest.raises((MalformedImageError, UnsupportedFirmwareError)) as caught:
        parse_firmware_untrusted(data)

    assert caught.value.reason == reason


def test_a_missing_or_doubled_section_is_refused_when_it_is_needed():
    firmware = parse_firmware_untrusted(blobs.firmware(blobs.SECTIONS[:1] * 2))

    for kind in (SectionType.CFV, SectionType.BFV):
        with pytest.raises(UnsupportedFirmwareError):
            firmware.section(kind)


@settings(deadline=None)
@given(st.integers(0, blobs.FIRMWARE_BYTES - 1), st.binary(min_size=1, max_size=8))
def test_damaged_firmware_raises_declared_errors_only(offset, damage):
    data = bytearray(blobs.firmware())
    # Most interesting at the metadata and at the end, where the table of GUIDs is.
    for at in (offset, blobs.CFV_BYTES + offset % 160, len(data) - 1 - offset % 128):
        mutated = data.copy()
        mutated[at : at + len(damage)] = damage
        with contextlib.suppress(MalformedImageError, UnsupportedFirmwareError):
            parse_firmware_untrusted(bytes(mutated))
