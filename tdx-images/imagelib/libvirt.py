"""A libvirt domain of one TD (formatdomain: launch security of type tdx, libvirt 11.6 or newer)."""

import base64
from xml.etree import ElementTree as ET

from imagelib.qemu import CONFIG_ENTRY, QGS_SOCKET, Guest, mac_of

BRIDGE = "br0"
# TD attributes: SEPT_VE_DISABLE (bit 28) and nothing else, so no DEBUG (bit 0).
ATTRIBUTES = 1 << 28


def domain(guest: Guest, *, name: str, mr_config_id: bytes) -> str:
    """Return the XML of a domain that boots as ``qemu.trust_domain`` does, with its network on a bridge."""
    root = ET.Element("domain", type="kvm")
    _text(root, "name", name)
    _text(root, "memory", str(guest.memory_mib), unit="MiB")
    _text(root, "vcpu", str(guest.cpus))
    configuration = ET.SubElement(root, "sysinfo", type="fwcfg")
    ET.SubElement(configuration, "entry", name=CONFIG_ENTRY, file=str(guest.config))
    system = ET.SubElement(root, "os")
    _text(system, "type", "hvm", arch="x86_64", machine="q35")
    _text(system, "loader", str(guest.image / "OVMF.fd"), type="rom", readonly="yes")
    _text(system, "kernel", str(guest.image / "vmlinuz"))
    _text(system, "initrd", str(guest.image / "initrd"))
    _text(system, "cmdline", guest.command_line)
    features = ET.SubElement(root, "features")
    for feature in ("acpi", "apic"):
        ET.SubElement(features, feature)
    ET.SubElement(features, "ioapic", driver="qemu")
    for feature in ("vmport", "smm"):
        ET.SubElement(features, feature, state="off")
    ET.SubElement(root, "cpu", mode="host-passthrough")
    ET.SubElement(ET.SubElement(root, "clock", offset="utc"), "timer", name="hpet", present="no")
    _text(root, "on_reboot", "destroy")
    _text(root, "on_crash", "destroy")
    security = ET.SubElement(root, "launchSecurity", type="tdx")
    _text(security, "policy", hex(ATTRIBUTES))
    _text(security, "mrConfigId", base64.b64encode(mr_config_id).decode())
    ET.SubElement(security, "quoteGenerationService", path=QGS_SOCKET)
    devices = ET.SubElement(root, "devices")
    ET.SubElement(devices, "controller", type="usb", model="none")
    ET.SubElement(devices, "memballoon", model="none")
    interface = ET.SubElement(devices, "interface", type="bridge")
    ET.SubElement(interface, "source", bridge=guest.bridge or BRIDGE)
    ET.SubElement(interface, "mac", address=mac_of(guest.config.read_bytes()))
    ET.SubElement(interface, "model", type="virtio")
    ET.SubElement(interface, "rom", enabled="no")
    serial = ET.SubElement(devices, "serial", type="file")
    ET.SubElement(serial, "source", path=str(guest.console))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = text
