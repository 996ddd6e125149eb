"""The root file system in memory: paths to files, folders and links, with modes but without owners or times.

Nothing is staged on the builder's disk under the image's own paths, so an absolute link can never
reach the build host.
"""

import io
import lzma
import stat
import tarfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from imagelib import elf
from imagelib.errors import BuildError

_HINT = "the locked input is not what it should be; refresh the lock"
_CLASH_HINT = "leave one of the two out of tdx-images/recipe.json and lock again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    mode: int
    """Type and permissions, as in ``st_mode``."""
    data: bytes = b""
    """Contents of a file, or target of a link."""


class Tree:
    """A file system that is built up in memory and written out in one order.

    Several inputs may have the same folder. A file or a link belongs to the one input that brings it: no
    input replaces a part of another.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self._sources: dict[str, str] = {}
        self._source = ""

    def begin(self, source: str) -> None:
        """Name the input that what follows comes from."""
        self._source = source

    def folder(self, path: str, permissions: int = 0o755) -> None:
        clean = _clean(path)
        for parent in list(PurePosixPath(clean).parents)[-2::-1]:
            self._require_folder(str(parent))
            self.nodes.setdefault(str(parent), Node(mode=stat.S_IFDIR | 0o755))
            self._sources.setdefault(str(parent), self._source)
        if clean != ".":
            self._require_folder(clean)
            self.nodes[clean] = Node(mode=stat.S_IFDIR | permissions)
            self._sources.setdefault(clean, self._source)

    def file(self, path: str, data: bytes, *, executable: bool = False) -> None:
        self._put(path, Node(mode=stat.S_IFREG | (0o555 if executable else 0o444), data=data))

    def link(self, path: str, target: str) -> None:
        self._put(path, Node(mode=stat.S_IFLNK | 0o777, data=target.encode()))

    def hard_link(self, path: str, target: str) -> None:
        """Put a file at ``path`` with the contents and the mode of the one at ``target``."""
        self._put(path, self.nodes[_clean(target)])

    def require_absent(self, path: str) -> None:
        """Raise if an input has written this path, or anything below it.

        Raises:
            BuildError: names the other input.
        """
        taken = next((p for p in sorted(self.nodes) if p == path or p.startswith(f"{path}/")), None)
        if taken is not None:
            raise self._refusal(taken)

    def _put(self, path: str, node: Node) -> None:
        clean = _clean(path)
        if clean in self.nodes:
            raise self._refusal(clean)
        parent = str(PurePosixPath(clean).parent)
        if parent != ".":
            self._require_folder(parent)
            if parent not in self.nodes:
                self.folder(parent)
        self.nodes[clean] = node
        self._sources[clean] = self._source

    def _require_folder(self, path: str) -> None:
        if path in self.nodes and not stat.S_ISDIR(self.nodes[path].mode):
            raise self._refusal(path)

    def _refusal(self, path: str) -> BuildError:
        text = f"{path}: {self._sources[path]} has written it, and {self._source} would write it too"
        return BuildError(text, hint=_CLASH_HINT)

    def remove(self, *prefixes: str) -> None:
        """Remove these paths and all below them."""
        for path in list(self.nodes):
            if any(path == prefix or path.startswith(prefix + "/") for prefix in prefixes):
                del self.nodes[path]
                del self._sources[path]

    def files(self, prefix: str = "") -> Iterable[tuple[str, Node]]:
        for path in sorted(self.nodes):
            if stat.S_ISREG(self.nodes[path].mode) and path.startswith(prefix):
                yield path, self.nodes[path]


def _clean(path: str) -> str:
    parts = [part for part in PurePosixPath(path).parts if part not in {"/", "."}]
    if ".." in parts:
        raise BuildError(f"a path that leaves the archive: {path}", hint=_HINT)
    return "/".join(parts) or "."


def deb_members(data: bytes) -> Iterable[tuple[tarfile.TarInfo, bytes]]:
    """Yield the members of a .deb's data archive (ar, deb(5)), merged-usr paths applied."""
    archive = _ar_member(data, "data.tar")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isreg() else None
            member.name = _merged(_clean(member.name))
            yield member, stream.read() if stream else b""


def unpack_deb(tree: Tree, data: bytes) -> None:
    """Put a package's files into the tree; hard links become files, devices are refused."""
    for member, contents in deb_members(data):
        if member.isdir():
            if member.name != ".":
                tree.folder(member.name)
        elif member.isreg():
            tree.file(member.name, contents, executable=bool(member.mode & 0o111))
        elif member.issym():
            tree.link(member.name, member.linkname)
        elif member.islnk():
            tree.hard_link(member.name, _merged(_clean(member.linkname)))
        else:
            raise BuildError(f"{member.name} is of a kind that no image needs", hint=_HINT)


def unpack_wheel(tree: Tree, data: bytes, site: str) -> None:
    """Put a wheel's packages into ``site``; scripts and data schemes are left out.

    Raises:
        BuildError: one of its packages is there already. Python would see the two as one.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as wheel:
        for first in sorted({name.split("/", 1)[0] for name in wheel.namelist()}):
            tree.require_absent(f"{site}/{first}")
        for name in sorted(wheel.namelist()):
            first = name.split("/", 1)[0]
            if name.endswith("/") or first.endswith(".data"):
                continue
            if name.endswith((".c", ".h", ".pyx", ".pxd", ".pyi", ".pxi")):
                continue  # sources for compilers and type checkers
            tree.file(f"{site}/{name}", elf.stripped(wheel.read(name)))


def _merged(path: str) -> str:
    """Return the path on a system where /bin, /sbin and /lib* are links into /usr."""
    first, _, rest = path.partition("/")
    if first in {"bin", "sbin", "lib", "lib64"}:
        return f"usr/{path}" if rest else f"usr/{first}"
    return path


def _ar_member(data: bytes, prefix: str) -> bytes:
    if data[:8] != b"!<arch>\n":
        raise BuildError("a .deb that is not an ar archive", hint=_HINT)
    offset = 8
    while offset + 60 <= len(data):
        name = data[offset : offset + 16].decode("ascii").strip().rstrip("/")
        size = int(data[offset + 48 : offset + 58])
        body = data[offset + 60 : offset + 60 + size]
        if name.startswith(prefix):
            if name.endswith(".xz"):
                return lzma.decompress(body)
            if name == prefix or name.endswith(".gz"):
                return body  # tarfile reads both
            raise BuildError(f"a .deb with {name}, which is not supported", hint=_HINT)
        offset += 60 + size + size % 2
    raise BuildError(f"a .deb without {prefix}", hint=_HINT)
