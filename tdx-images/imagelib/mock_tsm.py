"""Building the mock report provider against the image's own kernel headers, without installing them.

The headers' build tools are linked against the image's C library, so they run through its loader.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from imagelib import cpio, lock, tree
from imagelib.errors import BuildError
from imagelib.rootfs import LIBRARIES
from imagelib.tree import Tree

SOURCES = lock.HERE / "mock-tsm"
_RUNTIME = ("libc6", "zlib1g", "libzstd1", "libelf1t64")
_TOOLS = (
    ("scripts/mod/modpost", "scripts/mod/modpost.real-lsb-64"),
    ("scripts/basic/fixdep", "scripts/basic/fixdep"),
    ("tools/objtool/objtool", "tools/objtool/objtool.real-x86"),
)
# A newer gcc compiled the kernel: an older gcc gets the flag that it knows.
_COMPILER = """#!/bin/bash
arguments=()
for argument in "$@"; do
  case "$argument" in
    -fmin-function-alignment=*) arguments+=("-falign-functions=${argument#*=}");;
    *) arguments+=("$argument");;
  esac
done
exec gcc "${arguments[@]}"
"""


def build_module(locked: dict[str, Any], template: bytes) -> bytes:
    """Return ``mock_tsm.ko``. Its quotes are ``template`` with the caller's REPORTDATA."""
    missing = [tool for tool in ("gcc", "make", "bash") if shutil.which(tool) is None]
    if missing:
        raise BuildError(f"{', '.join(missing)} missing", hint=f"apt-get install {' '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="bondstone-mock-tsm-") as name:
        folder = Path(name)
        for deb in locked["debs"]:
            if deb["group"] == "headers" or deb["name"] in _RUNTIME:
                _unpack(lock.deb_path(deb).read_bytes(), folder)
        version = locked["kernel"]
        flavourless = version.removesuffix("-cloud-amd64")
        _wrap(folder, folder / f"usr/lib/linux-kbuild-{flavourless}")
        headers = folder / f"usr/src/linux-headers-{version}"
        makefile = headers / "Makefile"
        makefile.write_text(makefile.read_text().replace(" /usr/src/", f" {folder}/usr/src/"))
        module = folder / "module"
        module.mkdir()
        shutil.copy(SOURCES / "mock_tsm.c", module)
        (module / "Makefile").write_text("obj-m := mock_tsm.o\n")
        numbers = ", ".join(map(str, template))
        (module / "template.h").write_text(f"static const u8 mock_quote[] = {{ {numbers} }};\n")
        compiler = folder / "cc"
        _executable(compiler, _COMPILER)
        done = subprocess.run(
            [
                "make", "-C", str(headers), f"M={module}", f"CC={compiler}",
                "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules",
            ],
            capture_output=True, text=True, check=False,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        if done.returncode:
            raise BuildError(
                f"the mock report provider does not build: {(done.stdout + done.stderr)[-800:]}",
                hint="gcc 12 or newer is needed",
            )
        return (module / "mock_tsm.ko").read_bytes()


def overlay(module: bytes) -> bytes:
    """Return an archive to append to a debug image's initrd: its PID 1 loads the module in it."""
    root = Tree()
    root.file("usr/lib/bondstone/extra/mock_tsm.ko", module)
    return cpio.encode(root, epoch=0)


def _unpack(deb: bytes, folder: Path) -> None:
    for member, data in tree.deb_members(deb):
        target = folder / member.name
        if member.isdir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if member.issym():
            if not member.linkname.startswith("/") and not target.is_symlink():
                target.symlink_to(member.linkname)
        elif member.isreg():
            target.write_bytes(data)
            target.chmod(0o755 if member.mode & 0o111 else 0o644)


def _wrap(folder: Path, kbuild: Path) -> None:
    libraries = folder / LIBRARIES
    for tool, real in _TOOLS:
        path, program = kbuild / tool, kbuild / real
        if path == program:
            program = path.with_name(path.name + ".elf")
            path.rename(program)
        loader = f"{libraries}/ld-linux-x86-64.so.2 --library-path {libraries}"
        path.unlink(missing_ok=True)
        _executable(path, f'#!/bin/sh\nexec {loader} {program} "$@"\n')


def _executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)
