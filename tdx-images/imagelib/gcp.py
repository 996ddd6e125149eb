"""The archive that Google Cloud imports: ``disk.raw``, a whole number of GiB, in an old GNU tar, gzipped.

Source: "Requirements to import a disk" of Compute Engine's documentation on images.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from enclave.image.folder import BuiltImage
from imagelib.errors import BuildError

GIB = 1 << 30


def archive(image: BuiltImage, out: Path) -> None:
    """Write the archive. The measurements stay the same: firmware measures only the first partition table.

    Zeros follow the disk; its second partition table stays at the place that the first one names.
    """
    with tempfile.TemporaryDirectory(prefix="bondstone-gcp-") as folder:
        disk = Path(folder, "disk.raw")
        shutil.copyfile(image.folder / "disk.raw", disk)
        os.truncate(disk, -(-disk.stat().st_size // GIB) * GIB)
        made = Path(folder, "archive")
        command = [
            "tar", "--format=oldgnu", "-S", "--owner=root:0", "--group=root:0", "--mode=0644",
            f"--mtime=@{image.manifest['source_date_epoch']}", "--use-compress-program=gzip -n",
            "-cf", str(made), "-C", folder, "disk.raw",
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError as exc:
            raise BuildError("tar is missing", hint="apt-get install tar gzip") from exc
        if done.returncode:
            raise BuildError(f"tar failed: {done.stderr.strip()}", hint="apt-get install tar gzip")
        shutil.copyfile(made, out)
