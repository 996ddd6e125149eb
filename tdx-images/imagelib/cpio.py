"""The initramfs archive: ``newc`` (Linux, early-userspace/buffer-format.rst), always in one order."""

import stat

from imagelib.tree import Tree

_MAGIC = b"070701"


def encode(tree: Tree, *, epoch: int) -> bytes:
    """Return the archive. Owners are root, times are ``epoch``, inodes count from 1 in path order."""
    parts: list[bytes] = []
    for inode, path in enumerate(sorted(tree.nodes), start=1):
        node = tree.nodes[path]
        links = 2 if stat.S_ISDIR(node.mode) else 1
        parts.append(_entry(path.encode(), inode, node.mode, links, epoch, node.data))
    parts.append(_entry(b"TRAILER!!!", 0, 0, 1, 0, b""))
    archive = b"".join(parts)
    return archive.ljust(-(-len(archive) // 512) * 512, b"\0")


def _entry(name: bytes, inode: int, mode: int, links: int, epoch: int, data: bytes) -> bytes:
    fields = (inode, mode, 0, 0, links, epoch, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = _MAGIC + b"".join(b"%08x" % field for field in fields) + name + b"\0"
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
