"""Kernel modules: which ones a list needs, and the order in which to load them."""

import lzma
import re

from imagelib.errors import BuildError


class Modules:
    """The modules of one kernel package, by name. A module is decompressed at its first use."""

    def __init__(self, files: dict[str, bytes], built_in: str) -> None:
        self._files = {_name(path): data for path, data in files.items()}
        self._built_in = {_name(path) for path in built_in.split()}

    def load_order(self, wanted: list[str]) -> list[str]:
        """Return the wanted modules, each after all of its dependencies, without built-in ones."""
        order: list[str] = []
        for name in wanted:
            self._visit(name.replace("-", "_"), order, ())
        return order

    def data(self, name: str) -> bytes:
        """Return the module itself, with the signature at its end."""
        packed = self._files[name]
        return lzma.decompress(packed) if packed[:6] == b"\xfd7zXZ\0" else packed

    def _visit(self, name: str, order: list[str], path: tuple[str, ...]) -> None:
        if name in order or name in self._built_in:
            return
        if name in path:
            raise BuildError(f"modules depend on each other: {path}", hint="check the kernel package")
        if name not in self._files:
            if name == "tsm" and "tsm_report" in self._files:  # its name from Linux 6.17 on
                name = "tsm_report"
            else:
                raise BuildError(f"the kernel has no module {name}", hint="check tdx-images/profiles/*.json")
        found = re.search(rb"\0depends=([^\0]*)\0", b"\0" + self.data(name))
        for needed in found[1].decode().split(",") if found and found[1] else []:
            self._visit(needed.replace("-", "_"), order, (*path, name))
        if name not in order:
            order.append(name)


def _name(path: str) -> str:
    stem = path.rsplit("/", 1)[-1]
    return re.sub(r"\.ko(\.xz)?$", "", stem).replace("-", "_")
