"""From locked inputs and a checkout to the root file system of an image."""

import json
import os
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from enclave.image.config import Profile
from imagelib import elf, lock, tree
from imagelib.errors import BuildError
from imagelib.modules import Modules
from imagelib.tree import Tree

SITE = "opt/bondstone"
GUEST = "opt/bondstone/guest"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
PYTHON = "usr/bin/python3.13"
LOADER = "usr/lib64/ld-linux-x86-64.so.2"
MACHINES = lock.HERE / "machines"
"""Python sources of the state machines that the recipe names, as they are imported."""

_STDLIB = "usr/lib/python3.13"
# Files that no node uses: manuals, tools for people, tests, graphical toolkits, the package installer.
_REMOVED = (
    "usr/share", "usr/sbin", "usr/libexec", "usr/games", "etc", "var", "usr/lib/init",
    "usr/lib/valgrind",
    "usr/lib/systemd", "usr/lib/sysusers.d", "usr/lib/tmpfiles.d", "usr/lib/locale", "usr/lib/lsb",
    "usr/include",
    f"{LIBRARIES}/audit", f"{LIBRARIES}/gconv", f"{LIBRARIES}/perl-base", f"{LIBRARIES}/ossl-modules",
    f"{LIBRARIES}/engines-3", f"{LIBRARIES}/libmvec.so.1", f"{LIBRARIES}/libmemusage.so",
    f"{LIBRARIES}/libpcprofile.so", f"{LIBRARIES}/libthread_db.so.1",
    *(f"{_STDLIB}/{name}" for name in (
        "test", "idlelib", "tkinter", "turtledemo", "turtle.py", "ensurepip", "lib2to3",
        "pydoc_data", "pydoc.py",
        "pdb.py", "sitecustomize.py", "curses", "dbm", "doctest.py", "venv", "xmlrpc", "_pyrepl",
        "sqlite3", "unittest", "xml",
    )),
    # For interactive use and for tests: a guest has neither.
    *(f"{SITE}/{name}" for name in ("node/cli", "node/dev.py", "node/simulation")),
)  # fmt: skip
# A production image does not contain these, so no configuration can make it a mock TD.
MOCK = (f"{SITE}/enclave/mock", f"{SITE}/node/mocked.py")
_IMPORTED = ("guest.main", "guest.node", "uvicorn.loops.uvloop", "uvicorn.protocols.http.httptools_impl")
_LOAD_MACHINES = """\
import sys
from node.machines.loader import Machines, load_machine
for name in sys.argv[1:]:
    load_machine(name, Machines(named=frozenset([name])))
"""
_EXTENSIONS_REMOVED = (
    "_curses", "_dbm", "_gdbm", "_sqlite3", "_tkinter", "_test", "readline", "xxlimited", "_xx", "_codecs_",
    "_multibytecodec",
)  # fmt: skip


def kernel_files(locked: dict[str, Any]) -> tuple[bytes, Modules]:
    """Return the kernel and its modules."""
    deb = next(d for d in locked["debs"] if d["group"] == "kernel")
    kernel, modules, built_in = b"", {}, ""
    for member, data in tree.deb_members(lock.deb_path(deb).read_bytes()):
        if member.name.startswith("boot/vmlinuz-"):
            kernel = data
        elif member.name.endswith((".ko", ".ko.xz")):
            modules[member.name] = data
        elif member.name.endswith("/modules.builtin"):
            built_in = data.decode()
    if not kernel or not modules or not built_in:
        raise BuildError(f"{deb['name']} is not a kernel package", hint="refresh the lock")
    return kernel, Modules(modules, built_in)


def os_release(name: str, profile: str, kernel: str) -> bytes:
    lines = (
        "ID=bondstone", "NAME=bondstone", f'PRETTY_NAME="bondstone {name}"', f"IMAGE_ID={name}",
        f"VARIANT_ID={profile}", f"VERSION_ID={kernel}",
    )  # fmt: skip
    return ("\n".join(lines) + "\n").encode()


def root_tree(
    locked: dict[str, Any],
    *,
    name: str,
    profile: Profile,
    settings: dict[str, Any],
    machines: tuple[str, ...],
    modules: Modules,
) -> Tree:
    """Return the finished root file system, compiled and checked."""
    root = Tree()
    for deb in locked["debs"]:
        if deb["group"] == "root":
            root.begin(deb["name"])
            tree.unpack_deb(root, lock.deb_path(deb).read_bytes())
    for wheel in locked["wheels"]:
        root.begin(wheel["file"])
        tree.unpack_wheel(root, lock.wheel_path(wheel).read_bytes(), SITE)
    root.begin("this checkout")
    for package in ("attestation", "enclave", "node"):
        _add_sources(root, lock.PROJECT / package, f"{SITE}/{package}")
    _add_sources(root, lock.HERE / "guest", GUEST)
    _add_machines(root, machines)
    _prune(root)
    if not profile.has_mock:
        root.remove(*MOCK)
    _add_system(root, locked, name=name, profile=profile, machines=machines)
    _add_modules(root, settings["modules"], modules)
    for path, data in _compiled(root, machines).items():
        root.file(path, data)
    _require_closed(root)
    return root


def _add_sources(root: Tree, folder: Path, target: str) -> None:
    """Add a package of this checkout: all of it, and nothing else under its name."""
    root.require_absent(target)
    root.require_absent(f"{target}.py")
    for file in sorted(folder.rglob("*.py")):
        root.file(f"{target}/{file.relative_to(folder).as_posix()}", file.read_bytes())


def _add_machines(root: Tree, machines: tuple[str, ...]) -> None:
    """Add the sources of the machines that the recipe names, beside the image's packages, not over them."""
    if not machines:
        return
    taken = {path.split("/")[2].removesuffix(".py") for path in root.nodes if path.startswith(f"{SITE}/")}
    for file in sorted(MACHINES.rglob("*.py")):
        path = file.relative_to(MACHINES)
        module = path.parts[0].removesuffix(".py")
        if module in taken or module in sys.stdlib_module_names:
            there = f"the image has {SITE}/{module}" if module in taken else f"Python has a module {module}"
            raise BuildError(f"{file}: {there} already", hint="give the module of the machine another name")
        root.file(f"{SITE}/{path.as_posix()}", file.read_bytes())


def _prune(root: Tree) -> None:
    root.remove(*_REMOVED)
    for path in list(root.nodes):
        base = path.rsplit("/", 1)[-1]
        if (
            (path.startswith("usr/bin/") and path != PYTHON)
            or ("/lib-dynload/" in path and base.startswith(_EXTENSIONS_REMOVED))
            or path.endswith((".a", ".o", ".pc"))
            or "/config-3.13-" in path
        ):
            root.remove(path)


def _add_system(
    root: Tree, locked: dict[str, Any], *, name: str, profile: Profile, machines: tuple[str, ...]
) -> None:
    for folder in ("dev", "proc", "sys", "run", "tmp", "etc/bondstone"):
        root.folder(folder)
    for link in ("bin", "sbin", "lib", "lib64"):
        root.folder(f"usr/{link}")
        root.link(link, f"usr/{link}")
    if LOADER not in root.nodes:
        root.link(LOADER, "../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
    image = {
        "name": name,
        "profile": profile.value,
        "machines": list(machines),
        "kernel": locked["kernel"],
        "built": locked["source_date_epoch"],
    }
    root.file("etc/bondstone/image.json", json.dumps(image, sort_keys=True).encode() + b"\n")
    root.file("etc/os-release", os_release(name, profile.value, locked["kernel"]))
    root.file("etc/passwd", b"root:x:0:0:root:/:/nonexistent\n")
    root.file("etc/group", b"root:x:0:\n")
    root.file("etc/hosts", b"127.0.0.1 localhost\n")
    root.file("etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files dns\n")
    root.link("etc/resolv.conf", "/run/resolv.conf")
    root.file("init", (lock.HERE / "guest" / "init.py").read_bytes(), executable=True)


def _add_modules(root: Tree, wanted: list[str], modules: Modules) -> None:
    order = modules.load_order(wanted)
    for name in order:
        root.file(f"usr/lib/bondstone/modules/{name}.ko", modules.data(name))
    root.file("etc/bondstone/modules.json", json.dumps(order).encode() + b"\n")


def _compiled(root: Tree, machines: tuple[str, ...]) -> dict[str, bytes]:
    """Return the bytecode of all Python files, made by the image's own interpreter.

    ``unchecked-hash`` and ``-B``: without them the files would contain times, or the compiling interpreter
    would write some for its own imports.
    """
    with tempfile.TemporaryDirectory(prefix="bondstone-image-") as folder:
        _stage(root, Path(folder))
        compiling = ["-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash"]
        compiling += ["-p", "/", "-s", folder]
        # Bytecode may depend on earlier compilations in the same process, so each process has a fixed share.
        with ThreadPoolExecutor() as pool:
            shares = [pool.submit(_python, folder, *compiling, f"{folder}/{p}") for p in (_STDLIB, SITE)]
        for share in shares:
            share.result()
        # No pruned file may be needed: import the guest's modules with only the image's files.
        _python(folder, "-c", f"import {', '.join(_IMPORTED)}")
        if machines:
            _python(folder, "-c", _LOAD_MACHINES, *machines)
        found = {}
        for base, _folders, files in os.walk(folder):
            for file in files:
                if file.endswith(".pyc"):
                    path = Path(base, file)
                    found[path.relative_to(folder).as_posix()] = path.read_bytes()
        return found


def _python(folder: str, *arguments: str) -> None:
    """Run the image's own interpreter on the staged files, through its own loader: no chroot is needed."""
    libraries = f"{folder}/{LIBRARIES}"
    environment = {
        "PYTHONHOME": f"{folder}/usr",
        "PYTHONPATH": f"{folder}/{SITE}",
        "PYTHONHASHSEED": "0",
        "LC_ALL": "C.UTF-8",
    }
    command = [f"{libraries}/ld-linux-x86-64.so.2", "--library-path", libraries, f"{folder}/{PYTHON}"]
    # In a folder of its own: Python searches for modules in the folder in which it starts.
    done = subprocess.run(
        [*command, "-B", "-S", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise BuildError(
            f"the image's Python failed: {(done.stdout + done.stderr)[-1200:]}",
            hint="a broken file in the checkout, or something that tdx-images/imagelib/rootfs.py leaves out",
        )


def _stage(root: Tree, folder: Path) -> None:
    """Write the interpreter's files, without absolute links: those would lead into the build host."""
    for path in sorted(root.nodes):
        node = root.nodes[path]
        target = folder / path
        if not path.startswith((_STDLIB, SITE, "usr/lib", "usr/bin", "usr")):
            continue
        if stat.S_ISDIR(node.mode):
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if stat.S_ISLNK(node.mode):
            if not node.data.startswith(b"/"):
                target.symlink_to(node.data.decode())
        elif path.endswith((".py", ".so")) or path.startswith((LIBRARIES, "usr/bin")) or ".so." in path:
            target.write_bytes(node.data)
            target.chmod(0o755 if node.mode & 0o111 or ".so" in path else 0o644)


def _require_closed(root: Tree) -> None:
    """Raise if the image lacks a shared library that one of its files needs."""
    there = {path.rsplit("/", 1)[-1] for path in root.nodes}
    missing: dict[str, str] = {}
    for path, node in root.files():
        for name in elf.needed(node.data):
            if name not in there:
                missing.setdefault(name, path)
    if missing:
        listed = ", ".join(f"{name} (for {path})" for name, path in sorted(missing.items()))
        raise BuildError(
            f"the image lacks {listed}", hint="add the package to tdx-images/recipe.json and lock again"
        )
