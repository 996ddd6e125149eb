"""The quote driver on the kernel's own configfs-tsm, with a mock report provider that only a debug image loads."""

import json
from datetime import UTC, datetime

import pytest

from enclave.image.console import boot_log_untrusted
from enclave.mock.authority import MockAuthority
from tests.images import harness

TOOLS = ("qemu-system-x86_64", "gcc", "make", "bash", "gpgv")
pytestmark = [pytest.mark.image, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def overlay(locked_inputs, tmp_path_factory):
    """An archive with the module, to follow an initrd."""
    folder = tmp_path_factory.mktemp("tsm")
    quote = folder / "quote"
    quote.write_bytes(MockAuthority.create(datetime.now(UTC)).create_td(mrtd=bytes(48)).quote(bytes(64)))
    harness.script("build.py", "mock-tsm", "--quote", quote, "--out", folder / "overlay")
    return (folder / "overlay").read_bytes()


def console_of(image, folder, overlay, *, command_line):
    initrd = folder / "initrd"
    initrd.write_bytes((image / "initrd").read_bytes() + overlay)
    return harness.boot(
        image, folder, "-kernel", image / "vmlinuz", "-initrd", initrd, "-append", command_line
    )


def events(*arguments, **options):
    return events_in(console_of(*arguments, **options))


def events_in(console):
    seen = {event["event"]: event for event in harness.console_events(console)}
    # It got as far as asking for its configuration, and this boot was given none.
    assert seen["configuration-refused"]["reason"] == "config-absent"
    return seen


def command_line(image):
    return json.loads((image / "image.json").read_text())["command_line"]


def test_a_debug_image_gets_quotes_over_real_configfs_from_a_mock_provider(debug_image, overlay, tmp_path):
    seen = events(debug_image, tmp_path, overlay, command_line=command_line(debug_image))

    assert seen["extra-module"]["error"] is None
    assert seen["tsm-quote"]["report_data"] is True
    assert "DEBUG-IMAGE" in seen


def test_without_a_provider_the_driver_reports_that_this_is_not_a_td_and_describes_the_machine(
    debug_image, tmp_path
):
    console = console_of(debug_image, tmp_path, b"", command_line=command_line(debug_image))

    assert events_in(console)["tsm-quote"]["error"] == "NotATrustDomainError"
    # What RTMR[0] depends on comes over the console, whole: QEMU's tables, and how firmware puts them together.
    assert boot_log_untrusted(console, "acpi-rsdp").startswith(b"RSD PTR ")
    assert b"DSDT" in boot_log_untrusted(console, "acpi-tables")
    assert b"etc/acpi/tables" in boot_log_untrusted(console, "acpi-loader")


def test_productions_command_line_makes_the_kernel_refuse_the_unsigned_module(
    debug_image, prod_image, overlay, tmp_path
):
    seen = events(debug_image, tmp_path, overlay, command_line=command_line(prod_image))

    assert "rejected" in seen["extra-module"]["error"]
    assert seen["tsm-quote"]["error"] == "NotATrustDomainError"


def test_a_production_image_does_not_look_for_extra_modules_at_all(prod_image, overlay, tmp_path):
    seen = events(prod_image, tmp_path, overlay, command_line=command_line(prod_image))

    assert "extra-module" not in seen
    assert "module-not-loaded" in seen
