import hashlib
import json
import tomllib

import pytest

from attestation.eventlog.ccel import parse_ccel_untrusted
from attestation.eventlog.events import Event, Origin
from attestation.policy.toml import load_policy_untrusted
from enclave.image.config import Profile
from enclave.image.errors import (
    ImageError,
    MalformedImageError,
    MeasurementMismatchError,
    UnsupportedFirmwareError,
)
from enclave.image.fragment import policy_fragment
from enclave.image.gpt import encode_gpt
from enclave.image.linux import Edk2, direct_load_options, patch_kernel_as_qemu
from enclave.image.measurements import (
    ImageFiles,
    measure,
)
from enclave.image.predict import HostShape, KernelLoading
from enclave.image.rtmr import Boot, MeasuredEvent, event, replay
from enclave.image.rtmr0 import AcpiBlobs, rtmr0_events, td_hob
from enclave.image.tdvf import Firmware, SectionType, TdvfSection, parse_firmware_untrusted
from enclave.image.uki import build_uki
from enclave.image.verify import first_difference, require_registers
from tests.enclave.image import blobs
from tests.enclave.image.test_pe_uki_gpt import ESP, UKI_SECTIONS, stub
from tests.support import documents
from tests.support.vectors import VECTORS, needs_vectors

EDK2 = Edk2(tag=202502)


def image(**changes):
    uki = build_uki(stub(), UKI_SECTIONS)
    head, _tail = encode_gpt((ESP,), disk_id=ESP.id, sectors=8192)
    values = {
        "name": "test",
        "profile": Profile.PROD,
        "command_line": "console=ttyS0",
        "edk2": EDK2,
        "firmware": blobs.firmware(),
        "kernel": blobs.executable(((".text", b"kernel"),)),
        "initrd": b"initrd!",
        "uki": uki,
        "disk": head,
    }
    return ImageFiles(**{**values, **changes})


def observed(events):
    return [
        Event(origin=Origin.CCEL, register=item.register, type=0xD, name="", digest=item.digest, data=b"")
        for item in events
    ]


def test_the_constant_events_are_those_that_other_tools_print():
    events = {item.label: item.digest.hex()[:8] for item in measure(image()).boots[Boot.DIRECT].events}

    assert events["calling application"] == "77a0dab2"
    assert events["separator"] == "394341b7"
    assert events["exit boot services"] == "214b0bef"
    assert events["exit boot services done"] == "0a2e01c8"


def test_the_order_of_rtmr1_depends_on_how_the_image_is_started():
    boots = measure(image()).boots

    labels = {boot: [item.label for item in boots[boot].of_register(1)] for boot in Boot}
    end = ["exit boot services", "exit boot services done"]
    start = ["calling application", "separator"]
    assert labels[Boot.DIRECT] == ["kernel", *start, *end]
    assert labels[Boot.UKI_DIRECT] == ["UKI", *start, "kernel inside of the UKI", *end]
    assert labels[Boot.UKI_DISK] == [*start, "partition table", "UKI", "kernel inside of the UKI", *end]


def test_the_initrd_option_moves_to_the_front_with_edk2_202508():
    assert direct_load_options("a=1", edk2=Edk2(tag=202505), initrd=True) == "a=1 initrd=initrd"
    assert direct_load_options("a=1", edk2=Edk2(tag=202508), initrd=True) == "initrd=initrd a=1"
    assert direct_load_options("a=1", edk2=Edk2(tag=202508), initrd=False) == "a=1"


@pytest.mark.parametrize("tag", [202211, 202408, 202501, 202611, 209902, 0])
def test_an_unknown_generation_of_edk2_is_refused_by_name(tag):
    with pytest.raises(UnsupportedFirmwareError) as caught:
        Edk2(tag=tag)

    assert caught.value.reason == "edk2-generation-unknown"
    assert str(tag) in str(caught.value)


@pytest.mark.parametrize("changed", ["kernel", "initrd", "command_line"])
def test_one_changed_byte_of_an_image_changes_a_register(changed):
    before = measure(image()).boots[Boot.DIRECT]
    value = {
        "kernel": blobs.executable(((".text", b"kernem"),)),
        "initrd": b"initrd?",
        "command_line": "console=ttyS1",
    }[changed]

    after = measure(image(**{changed: value})).boots[Boot.DIRECT]
    assert (before.rtmr1 != after.rtmr1) == (changed == "kernel")
    assert (before.rtmr2 != after.rtmr2) == (changed != "kernel")


def bzimage():
    kernel = bytearray(blobs.executable(((".text", b"kernel"),)))
    kernel[0x202:0x206] = b"HdrS"
    kernel[0x206:0x208] = (0x20F).to_bytes(2, "little")
    kernel[0x22C:0x230] = (0x7FFFFFFF).to_bytes(4, "little")
    kernel[0x236] = 0x2
    return bytes(kernel)


def test_qemu_before_10_writes_its_loader_fields_into_the_kernel():
    patched = patch_kernel_as_qemu(bzimage(), memory_bytes=512 << 20, initrd_bytes=0x5001)

    address = (0x20000000 - 0x28000 - 1 - 0x5001) & ~4095
    assert patched[0x210] == 0xB0
    assert patched[0x211] & 0x80
    assert int.from_bytes(patched[0x218:0x21C], "little") == address
    assert int.from_bytes(patched[0x21C:0x220], "little") == 0x5001
    assert int.from_bytes(patched[0x224:0x226], "little") == 0xFE00
    assert int.from_bytes(patched[0x228:0x22C], "little") == 0x20000
    differing = [at for at, (a, b) in enumerate(zip(bzimage(), patched, strict=True)) if a != b]
    assert all(0x210 <= at < 0x22C for at in differing)


def test_only_a_patched_kernel_makes_rtmr1_depend_on_memory():
    def rtmr1(loading, memory):
        host = HostShape(kernel_loading=loading, memory_bytes=memory)
        return measure(image(kernel=bzimage()), host=host).boots[Boot.DIRECT].rtmr1

    as_is, patched = KernelLoading.AS_IS, KernelLoading.QEMU_PATCHED
    assert rtmr1(as_is, 1 << 30) == rtmr1(as_is, 2 << 30)
    assert rtmr1(patched, 1 << 30) != rtmr1(patched, 2 << 30)
    assert rtmr1(patched, 2 << 30) != rtmr1(as_is, 2 << 30)


@pytest.mark.parametrize("command_line", ["x" * 2048, "a\nb", "ä", "a\0b"])
def test_a_command_line_that_the_kernel_would_not_see_unchanged_is_refused(command_line):
    with pytest.raises(MalformedImageError):
        measure(image(command_line=command_line))


def test_measurements_survive_their_file_and_replay_to_their_registers():
    measured = measure(image())
    value = json.loads(measured.to_json())

    for boot in Boot:
        written = value["boots"][boot.value]
        read = [
            MeasuredEvent(**event | {"digest": bytes.fromhex(event["digest"])}) for event in written["events"]
        ]
        assert tuple(read) == measured.boots[boot].events
        for register in (1, 2):
            assert replay(e for e in read if e.register == register).hex() == written[f"rtmr{register}"]
    assert value["sha256"]["initrd"] == hashlib.sha256(b"initrd!").hexdigest()
    assert value["status"] == "predicted"
    assert "rtmr0" not in value


def test_a_boot_as_predicted_has_no_difference_and_events_that_extend_nothing_do_not_count():
    events = measure(image()).boots[Boot.DIRECT].events
    log = observed(events)
    log.insert(1, Event(origin=Origin.CCEL, register=1, type=3, name="", digest=bytes(48), data=b"no action"))

    assert first_difference(events, log, registers=(1, 2)) is None


def test_the_first_event_that_differs_is_named():
    events = measure(image()).boots[Boot.DIRECT].events
    other = measure(image(initrd=b"initrd?")).boots[Boot.DIRECT].events

    difference = first_difference(events, observed(other), registers=(1, 2))
    assert "RTMR[2] event 1, initrd" in str(difference)

    assert first_difference(events, observed(events[:-1]), registers=(1, 2)).observed is None
    more = first_difference(events, observed((*events, event(2, "more", b"x"))), registers=(1, 2))
    assert more.predicted is None
    assert more.index == 2


def test_swapped_events_differ_though_the_set_of_digests_is_the_same():
    events = list(measure(image()).boots[Boot.DIRECT].events)
    swapped = [events[1], events[0], *events[2:]]

    assert first_difference(events, observed(swapped), registers=(1,)).index == 0


def test_a_log_that_agrees_does_not_hide_registers_that_do_not():
    boot = measure(image()).boots[Boot.DIRECT]

    require_registers(boot.events, [b"", boot.rtmr1, boot.rtmr2, b""], registers=(1, 2))
    with pytest.raises(MeasurementMismatchError) as caught:
        require_registers(boot.events, [b"", boot.rtmr1, boot.rtmr1, b""], registers=(1, 2))
    assert "RTMR[2]" in str(caught.value)


@pytest.mark.parametrize("profile", [Profile.DEBUG, Profile.EMULATION])
def test_a_policy_is_not_made_for_another_image_than_productions_unless_asked(profile):
    value = json.loads(measure(image(profile=profile)).to_json())

    with pytest.raises(ImageError) as caught:
        policy_fragment(value, boot=Boot.DIRECT, waive_rtmr0=True)
    assert caught.value.reason == f"{profile.value}-image"
    allowed = policy_fragment(value, boot=Boot.DIRECT, waive_rtmr0=True, allowed={profile})
    assert "ever for real secrets" in allowed


def test_a_policy_leaves_out_the_hosts_acpi_tables_only_on_request_and_explains_what_that_means():
    value = json.loads(measure(image()).to_json())

    with pytest.raises(ImageError) as caught:
        policy_fragment(value, boot=Boot.DIRECT)
    assert caught.value.reason == "rtmr0-not-predicted"
    waived = policy_fragment(value, boot=Boot.DIRECT, waive_rtmr0=True)
    assert "the host's code can then read and write this TD's memory" in waived
    assert "rtmr0" in tomllib.loads(waived)["reference_values"]["not_checked"]

    pinned = policy_fragment({**value, "rtmr0": "ab" * 48}, boot=Boot.DIRECT)
    assert "memory" not in pinned
    (variant,) = tomllib.loads(pinned)["reference_values"]["variants"].values()
    assert variant["rtmr0"] == ["ab" * 48]


@pytest.mark.parametrize("boot", list(Boot))
def test_the_policy_fragment_is_a_policys_table_and_pins_exactly_this_image(boot):
    measured = measure(image())
    text = policy_fragment(json.loads(measured.to_json()), boot=boot, waive_rtmr0=True)
    rest = """version = 1
[tcb]
accepted_statuses = ["UpToDate"]
[ticket]
max_age_seconds = 60
max_lifetime_seconds = 60
"""

    values = load_policy_untrusted((rest + text).encode()).reference_values
    (variant,) = values.variants.values()
    assert variant["mrtd"] == set(measured.mrtd.values())
    assert variant["rtmr1"] == {measured.boots[boot].rtmr1}
    assert variant["rtmr2"] == {measured.boots[boot].rtmr2}
    assert variant["rtmr3"] == {bytes(48)}
    assert values.not_checked == ("rtmr0", "mrseam", "mrconfigid", "mrowner", "mrownerconfig")


@pytest.mark.parametrize("boot", list(Boot))
def test_the_fragment_of_a_group_document_binds_the_document_itself_where_a_platform_can_set_it(boot):
    text = policy_fragment(
        json.loads(measure(image()).to_json()), boot=boot, waive_rtmr0=True, in_group_document=True
    )
    rest = documents.MINIMAL.partition("[policy.reference_values]")[0]

    values = documents.document(rest + text).policy.reference_values
    assert values.own_mrconfigid is (boot is not Boot.UKI_DISK)
    assert ("mrconfigid" in values.not_checked) is (boot is Boot.UKI_DISK)
    assert ("# MRCONFIGID is not checked" in text) is (boot is Boot.UKI_DISK)
    assert len(values.variants) == 1


GIB = 1 << 30


@needs_vectors
def test_hand_off_blocks_of_an_8_gib_td_are_those_in_a_real_log():
    log = parse_ccel_untrusted((VECTORS / "ccel" / "goeventlog-ccel-unpadded.bin").read_bytes())

    # The layout of temporary memory of the firmware that wrote this log.
    def section_of(kind, address, size):
        return TdvfSection(
            type=kind,
            file_offset=0,
            file_bytes=0,
            address=address,
            memory_bytes=size,
            measured=False,
            augmented=False,
        )

    firmware = Firmware(
        data=b"",
        sections=(
            section_of(SectionType.TEMP_MEM, 0x810000, 0x10000),
            section_of(SectionType.TEMP_MEM, 0x80B000, 0x2000),
            section_of(SectionType.TD_HOB, 0x809000, 0x2000),
            section_of(SectionType.TEMP_MEM, 0x800000, 0x6000),
        ),
    )
    assert hashlib.sha384(td_hob(firmware, memory_bytes=8 * GIB)).digest() == log[0].digest


@needs_vectors
def test_variables_separator_and_boot_options_are_those_in_a_real_log():
    log = parse_ccel_untrusted((VECTORS / "ccel" / "goeventlog-ccel-unpadded.bin").read_bytes())
    real = [item.digest for item in log if item.register == 0 and item.extends]
    firmware = parse_firmware_untrusted(blobs.firmware())
    acpi = AcpiBlobs(loader=b"", rsdp=b"", tables=b"")

    ours = {e.label: e.digest for e in rtmr0_events(firmware, edk2=EDK2, memory_bytes=GIB, acpi=acpi)}
    # That firmware had a one-byte SecureBoot; ours logs an empty one, as the boot with a software TPM shows.
    assert ours["variable SecureBoot"].hex().startswith("9dc3a1f80bcec915")
    for label in ("variable PK", "variable KEK", "variable db", "variable dbx"):
        assert ours[label] in real
    assert ours["separator"] in real
    assert ours["Boot0000 (UiApp)"] in real


def test_rtmr0_is_predicted_only_for_generations_whose_events_are_known():
    acpi = AcpiBlobs(loader=b"l", rsdp=b"r", tables=b"t")

    assert measure(image(), acpi=acpi).rtmr0 is not None
    with pytest.raises(UnsupportedFirmwareError) as caught:
        measure(image(edk2=Edk2(tag=202508)), acpi=acpi)
    assert caught.value.reason == "rtmr0-unpredictable"


def test_extending_is_sha384_of_register_and_digest():
    one = MeasuredEvent(register=1, label="", digest=b"\x01" * 48)

    assert replay([]) == bytes(48)
    assert replay([one]) == hashlib.sha384(bytes(48) + one.digest).digest()
