"""Checks how bondstone is installed: no other distribution may have put files into its packages.

The three packages have short names, and other distributions use two of them too. pip merges such packages
silently: the last one installed overwrites the other's files, and uninstalling it deletes them.
"""

from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from typing import Final

from node.errors import ConfigError

OWN: Final = "bondstone"
PACKAGES: Final = ("attestation", "enclave", "node")


def require_own_packages(installed: Iterable[Distribution] | None = None) -> None:
    """Require that no other distribution has files in bondstone's packages.

    Args:
        installed: the installed distributions; None: all that this interpreter finds.

    Raises:
        ConfigError: one has; the message names it, and what to do.
    """
    for distribution in distributions() if installed is None else installed:
        record = distribution.read_text("RECORD")
        if record is None:
            continue
        shared = [name for name in PACKAGES if record.startswith(f"{name}/") or f"\n{name}/" in record]
        if shared and distribution.name.lower() != OWN:
            raise ConfigError(
                f"the distribution {distribution.name} has files in {', '.join(shared)}, which {OWN} owns:"
                f" one of the two has overwritten the other. hint: install {OWN} in an environment of its own"
            )
