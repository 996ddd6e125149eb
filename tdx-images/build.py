#!/usr/bin/env python3
"""Build a bondstone image: ``build.py lock | fetch | build --profile prod --out DIR | mock-tsm | gcp``.

The kernel's command line and modules are in ``profiles/``, packages in ``recipe.json``.

Needs no root and no chroot. The same lock and the same checkout give the same bytes on every builder's
machine.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
sys.dont_write_bytecode = True

from imagelib import cpio, gcp, lock, mock_tsm, rootfs, tree  # noqa: E402
from imagelib.disk import build_disk  # noqa: E402
from imagelib.errors import BuildError  # noqa: E402

from enclave.image.config import Profile  # noqa: E402
from enclave.image.errors import ImageError  # noqa: E402
from enclave.image.folder import load_image  # noqa: E402
from enclave.image.linux import Edk2  # noqa: E402
from enclave.image.measurements import ImageFiles, measure  # noqa: E402
from enclave.image.uki import build_uki  # noqa: E402

INITRD_BYTES_MAX = 100_000_000


class Progress:
    """One line per step on stderr, with the seconds since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, message: str) -> None:
        print(f"[{time.monotonic() - self._start:5.1f} s] {message}", file=sys.stderr, flush=True)


def build(profile: Profile, out: Path, progress: Progress) -> None:
    """Write vmlinuz, initrd, uki.efi, disk.raw, OVMF.fd, image.json and measurements.json to ``out``."""
    locked = lock.load(lock.LOCK)
    lock.require_cached(locked)
    files = image_files(profile, locked, progress)
    progress("measuring")
    measured = measure(files)
    out.mkdir(parents=True, exist_ok=True)
    assert files.uki is not None
    assert files.disk is not None
    contents = {
        "vmlinuz": files.kernel,
        "initrd": files.initrd,
        "uki.efi": files.uki,
        "disk.raw": files.disk,
        "OVMF.fd": files.firmware,
        "image.json": manifest(files, locked, lock.load(lock.RECIPE)["machines"]),
        "measurements.json": measured.to_json(),
    }
    for name, data in contents.items():
        (out / name).write_bytes(data)
    progress(f"{files.name}: an initrd of {len(files.initrd) / 1e6:.1f} MB, in {out}")
    if profile is Profile.DEBUG:
        progress("THIS IS A DEBUG IMAGE: it takes secrets from its host, and has other measurements")
    if profile is Profile.EMULATION:
        progress("this image is for emulation: it can be a mock TD, and has other measurements")


def image_files(profile: Profile, locked: dict[str, Any], progress: Progress) -> ImageFiles:
    """Return the files of an image, made from locked inputs and this checkout."""
    recipe = lock.load(lock.RECIPE)
    settings = lock.load(HERE / "profiles" / f"{profile.value}.json")
    machines = tuple(recipe["machines"])
    name = "bondstone" if profile is Profile.PROD else f"bondstone-{profile.value.upper()}"
    progress("unpacking the kernel")
    kernel, modules = rootfs.kernel_files(locked)
    progress("laying down the root file system, and compiling it")
    root = rootfs.root_tree(
        locked, name=name, profile=profile, settings=settings, machines=machines, modules=modules
    )
    initrd = require_small(cpio.encode(root, epoch=locked["source_date_epoch"]))
    progress("making the UKI and the disk")
    uki = build_uki(
        one_file(locked, "stub", recipe["stub"]["path"]),
        (
            (".osrel", rootfs.os_release(name, profile.value, locked["kernel"])),
            (".cmdline", settings["command_line"].encode()),
            (".uname", locked["kernel"].encode()),
            (".initrd", initrd),
            (".linux", kernel),
        ),
    )
    return ImageFiles(
        name=name,
        profile=profile,
        command_line=settings["command_line"],
        edk2=Edk2(tag=recipe["firmware"]["edk2"]),
        firmware=one_file(locked, "firmware", recipe["firmware"]["path"]),
        kernel=kernel,
        initrd=initrd,
        uki=uki,
        disk=build_disk(uki),
    )


def require_small(initrd: bytes) -> bytes:
    if len(initrd) > INITRD_BYTES_MAX:
        raise BuildError(
            f"the initrd has {len(initrd)} bytes, at most {INITRD_BYTES_MAX}",
            hint="leave out a package; begin with the largest paths",
        )
    return initrd


def manifest(files: ImageFiles, locked: dict[str, Any], machines: list[str]) -> bytes:
    """Return ``image.json``: the facts that starting and measuring need besides the files."""
    value = {
        "version": 1,
        "name": files.name,
        "profile": files.profile.value,
        "command_line": files.command_line,
        "edk2": files.edk2.tag,
        "kernel": locked["kernel"],
        "machines": machines,
        "source_date_epoch": locked["source_date_epoch"],
    }
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def one_file(locked: dict[str, Any], group: str, path: str) -> bytes:
    """Return one file out of the package of a group."""
    deb = next(d for d in locked["debs"] if d["group"] == group)
    for member, data in tree.deb_members(lock.deb_path(deb).read_bytes()):
        if member.name == path:
            return data
    raise BuildError(f"{deb['name']} has no {path}", hint="check tdx-images/recipe.json")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("lock", help="resolve the recipe again and write lock.json")
    commands.add_parser("fetch", help="download the locked inputs into the cache")
    building = commands.add_parser("build", help="build from the cache")
    building.add_argument("--profile", type=Profile, choices=list(Profile), default=Profile.PROD)
    building.add_argument("--out", type=Path, required=True)
    mocking = commands.add_parser("mock-tsm", help="build an overlay for a debug image's initrd")
    mocking.add_argument("--quote", type=Path, required=True, help="the quote to answer with")
    mocking.add_argument("--out", type=Path, required=True)
    packing = commands.add_parser("gcp", help="pack a built image's disk for Google Cloud")
    packing.add_argument("--image", type=Path, required=True)
    packing.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    progress = Progress()
    try:
        if arguments.command == "lock":
            lock.lock(progress)
        elif arguments.command == "fetch":
            lock.fetch(progress)
        elif arguments.command == "mock-tsm":
            module = mock_tsm.build_module(lock.load(lock.LOCK), arguments.quote.read_bytes())
            arguments.out.write_bytes(mock_tsm.overlay(module))
        elif arguments.command == "gcp":
            progress("packing the disk")
            gcp.archive(load_image(arguments.image), arguments.out)
        else:
            build(arguments.profile, arguments.out, progress)
    except (BuildError, ImageError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
