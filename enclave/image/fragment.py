"""From ``measurements.json`` to the part of an appraisal policy that admits the image."""

import json
from collections.abc import Mapping
from typing import Any

from attestation.policy_rules import REGISTERS
from enclave.image.errors import ImageError, MalformedImageError
from enclave.image.rtmr import Boot


def policy_fragment(value: Mapping[str, Any], *, boot: Boot, allow_debug: bool = False) -> str:
    """Return TOML to paste into an appraisal policy, so that it admits exactly this image.

    Args:
        value: the JSON value of ``measurements.json``.
        boot: the way in which the image is started.
        allow_debug: whether a debug image may be admitted.

    Raises:
        ImageError: a debug image without ``allow_debug``.
        MalformedImageError: the file has no such boot.
    """
    if value["debug"] and not allow_debug:
        raise ImageError(
            "debug-image",
            f"{value['name']} is a debug image: whoever holds its console holds the node. "
            "Pass --allow-debug to make a policy for it nevertheless",
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
    waived = [name for name in REGISTERS if name not in pinned]
    lines = [
        f"# {value['name']}, {boot.value} boot, predicted for edk2 {value['edk2']}.",
        *(["# A DEBUG IMAGE: never for real secrets."] if value["debug"] else []),
        "[reference_values]",
        f"not_checked = {json.dumps(waived)}",
        "",
        f'[reference_values.variants."{value["name"]}-{boot.value}"]',
        *(f"{name} = {json.dumps(pinned[name])}" for name in sorted(pinned)),
    ]
    return "\n".join(lines) + "\n"
