"""Debian's archive: which mirror, and the packages that a signed release lists.

The mirror is the one that this machine's apt uses, with the image's suites in place of its own. A
Release file counts only with a signature by a key of ``debian-archive-keyring``; indices and
packages count only by their SHA-256 from there on.
"""

import hashlib
import lzma
import os
import re
import subprocess
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from imagelib.errors import BuildError

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
INDEX_BYTES_MAX = 256 * 1024 * 1024
PACKAGE_BYTES_MAX = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    name: str
    version: str
    archive: str
    path: str
    sha256: str
    depends: str


def mirror_of(archive: str) -> str:
    """Return the base address of ``debian`` or ``debian-security``, as apt knows it."""
    override = os.environ.get("BONDSTONE_MIRROR_" + archive.upper().replace("-", "_"))
    if override:
        return override.rstrip("/")
    sources = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    for source in sources:
        if not source.is_file():
            continue
        text = re.sub(r"#.*", "", source.read_text(errors="replace"))
        for found in re.finditer(r"https?://\S+", text):
            address = found.group().rstrip("/")
            if address.endswith("/" + archive):
                return address
    raise BuildError(
        f"apt's sources name no mirror of the {archive} archive",
        hint=f"set BONDSTONE_MIRROR_{archive.upper().replace('-', '_')} to its address",
    )


def download(address: str, *, bytes_max: int) -> bytes:
    request = urllib.request.Request(address, headers={"User-Agent": "bondstone-image"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        data: bytes = answer.read(bytes_max + 1)
    if len(data) > bytes_max:
        raise BuildError(f"{address} has more than {bytes_max} bytes", hint="check the mirror")
    return data


def packages_of(archive: str, suite: str, architecture: str) -> dict[str, Package]:
    """Return the packages of a suite's ``main``, by name, from its signed Release file."""
    base = f"{mirror_of(archive)}/dists/{suite}"
    try:
        release = _verified(download(f"{base}/InRelease", bytes_max=4 * 1024 * 1024))
        wanted = f"main/binary-{architecture}/Packages.xz"
        index = download(f"{base}/{wanted}", bytes_max=INDEX_BYTES_MAX)
    except urllib.error.URLError as exc:
        raise BuildError(f"{base} cannot be read: {exc}", hint="check apt's sources") from exc
    section = release.split("\nSHA256:", 1)[-1]
    found = re.search(rf"^ ([0-9a-f]{{64}}) +\d+ {re.escape(wanted)}$", section, re.MULTILINE)
    if found is None or hashlib.sha256(index).hexdigest() != found[1]:
        raise BuildError(
            f"{suite}'s index of packages is not the one that its release names",
            hint="the mirror is being updated; try again in a few minutes",
        )
    return _parse_index(lzma.decompress(index).decode(), archive)


def _verified(in_release: bytes) -> str:
    """Return the signed text of an InRelease file."""
    if not KEYRING.is_file():
        raise BuildError(f"{KEYRING} is missing", hint="apt-get install debian-archive-keyring gpgv")
    with tempfile.TemporaryDirectory() as folder:
        signed, plain = Path(folder, "InRelease"), Path(folder, "Release")
        signed.write_bytes(in_release)
        command = ["gpgv", "--quiet", "--keyring", str(KEYRING), "--output", str(plain), str(signed)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError as exc:
            raise BuildError("gpgv is missing", hint="apt-get install gpgv") from exc
        if done.returncode:
            raise BuildError(
                f"the release is not signed by Debian: {done.stderr.strip()}",
                hint="check the mirror, or update debian-archive-keyring",
            )
        return plain.read_text()


def _parse_index(text: str, archive: str) -> dict[str, Package]:
    packages: dict[str, Package] = {}
    for stanza in text.split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", stanza, re.MULTILINE))
        if "Package" in fields:
            package = Package(
                name=fields["Package"],
                version=fields["Version"],
                archive=archive,
                path=fields["Filename"],
                sha256=fields["SHA256"],
                depends=fields.get("Depends", ""),
            )
            known = packages.get(package.name)
            packages[package.name] = package if known is None else newest(known, package)
    return packages


def newest(first: Package, second: Package) -> Package:
    """Return the package with the higher version, by dpkg's rules."""
    try:
        done = subprocess.run(
            ["dpkg", "--compare-versions", first.version, "ge", second.version], check=False
        )
    except FileNotFoundError as exc:
        raise BuildError("dpkg is missing", hint="run this on Debian or Ubuntu, or install dpkg") from exc
    return first if done.returncode == 0 else second
