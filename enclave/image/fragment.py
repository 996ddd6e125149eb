"""From ``measurements.json`` to the part of an appraisal policy that admits the image."""

import json
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final

from attestation.policy.rules import REGISTERS
from enclave.image.config import Profile
from enclave.image.errors import ImageError, MalformedImageError
from enclave.image.rtmr import Boot

_PRODUCTION: Final = frozenset({Profile.PROD})
_WARNINGS: Final = {
    Profile.PROD: (),
    Profile.EMULATION: ("# AN IMAGE FOR EMULATION: its node can be a mock TD. Never for real secrets.",),
    Profile.DEBUG: ("# A DEBUG IMAGE: never for real secrets.",),
}
_RTMR0_WAIVED: Final = (
    "# RTMR[0] IS NOT CHECKED (--waive-rtmr0). It measures the ACPI tables, which the host makes,",
    "# and Linux runs the code in them: the host's code can then read and write this TD's memory.",
    "# To check it, predict it for the machine's shape (--acpi), or pin what",
    "# `bondstone image verify --quote` prints of a boot that you trust.",
)

_MRCONFIGID_WAIVED: Final = (
    "# MRCONFIGID is not checked: a cloud that boots a disk does not set it. The GroupId covers this file.",
)


def policy_fragment(
    value: Mapping[str, Any],
    *,
    boot: Boot,
    waive_rtmr0: bool = False,
    in_group_document: bool = False,
    allowed: AbstractSet[Profile] = _PRODUCTION,
) -> str:
    """Return TOML to paste into a group document or an appraisal policy, so that it admits only this image.

    Args:
        value: the JSON value of ``measurements.json``.
        boot: the way in which the image is started.
        waive_rtmr0: accept a missing prediction of RTMR[0]; the fragment explains the consequence.
        in_group_document: as tables of a group document, which MRCONFIGID can bind; otherwise of a policy.
        allowed: the profiles whose images may be admitted.

    Raises:
        ImageError: an image of another profile; or RTMR[0] is neither predicted nor waived.
        MalformedImageError: the file has no such boot.
    """
    profile = Profile(value["profile"])
    if profile not in allowed:
        raise ImageError(
            f"{profile.value}-image",
            f"{value['name']} is an image of the profile {profile.value}: its host controls the "
            f"node. Pass --allow-{profile.value} to make a policy for it nevertheless",
        )
    if "rtmr0" not in value and not waive_rtmr0:
        raise ImageError(
            "rtmr0-not-predicted",
            "RTMR[0] is not predicted: it measures the host's ACPI tables, whose code Linux runs. Pass "
            "--acpi with the tables of the machine's shape, or --waive-rtmr0 to do without (docs/deploy.md)",
        )
    if boot.value not in value["boots"]:
        raise MalformedImageError("boot-unknown", f"nothing was measured for a {boot.value} boot")
    measured = value["boots"][boot.value]
    pinned = {
        "mrtd": [value["mrtd"], value["mrtd_twopass"]],
        "rtmr1": [measured["rtmr1"]],
        "rtmr2": [measured["rtmr2"]],
        "rtmr3": ["00" * 48],
    }
    if "rtmr0" in value:
        pinned["rtmr0"] = [value["rtmr0"]]
    own = in_group_document and boot is not Boot.UKI_DISK
    waived = [name for name in REGISTERS if name not in pinned and not (own and name == "mrconfigid")]
    table = "policy.reference_values" if in_group_document else "reference_values"
    lines = [
        f"# {value['name']}, {boot.value} boot, predicted for edk2 {value['edk2']}.",
        *_WARNINGS[profile],
        *(_RTMR0_WAIVED if "rtmr0" in waived else ()),
        *(_MRCONFIGID_WAIVED if in_group_document and not own else ()),
        f"[{table}]",
        f"not_checked = {json.dumps(waived)}",
        "",
        *([f"[{table}.baseline]", 'mrconfigid = "own"', ""] if own else ()),
        f'[{table}.variants."{value["name"]}-{boot.value}"]',
        *(f"{name} = {json.dumps(pinned[name])}" for name in sorted(pinned)),
    ]
    return "\n".join(lines) + "\n"
