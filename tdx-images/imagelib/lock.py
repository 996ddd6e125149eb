"""``lock.json``: every input of an image by name, version and SHA-256, and how to download them."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.error
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from imagelib import mirror
from imagelib.errors import BuildError

HERE = Path(__file__).resolve().parents[1]
PROJECT = HERE.parent
RECIPE = HERE / "recipe.json"
LOCK = Path(os.environ.get("BONDSTONE_IMAGE_LOCK", HERE / "lock.json"))
CACHE = HERE / "cache"

Progress = Callable[[str], None]

_REFRESH = "refresh the lock with `python3 tdx-images/build.py lock`, and measure again"
_PLATFORMS = (
    "manylinux2014_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux_2_28_x86_64",
    "manylinux_2_34_x86_64",
    "any",
)


def load(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as exc:
        raise BuildError(f"{path} is missing", hint=_REFRESH) from exc
    return value


def lock(progress: Progress) -> None:
    """Resolve the recipe against the archive and pip as they are now, and write ``lock.json``."""
    recipe = load(RECIPE)
    known: dict[str, mirror.Package] = {}
    for entry in recipe["suites"]:
        archive, suite = entry.split(":")
        progress(f"reading the signed index of {suite}")
        for package in mirror.packages_of(archive, suite, recipe["architecture"]).values():
            other = known.get(package.name)
            known[package.name] = package if other is None else mirror.newest(other, package)
    groups = {name: list(names) for name, names in recipe["packages"].items()}
    groups["kernel"] = [_image_of(known, recipe["kernel"])]
    # For the mock report provider of debug images only: the kernel's headers, and its build tools' needs.
    version = groups["kernel"][0].removeprefix("linux-image-")
    flavourless = version.removesuffix("-cloud-amd64")
    groups["headers"] = [
        f"linux-headers-{version}",
        f"linux-headers-{flavourless}-common",
        f"linux-kbuild-{flavourless}",
        "libelf1t64",
    ]
    debs = [
        {"group": group, **_entry(_find(known, name))}
        for group in sorted(groups)
        for name in sorted(groups[group])
    ]
    progress("choosing wheels with pip")
    value = {
        "version": 1,
        "kernel": version,
        "source_date_epoch": int(
            datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
        ),
        "debs": debs,
        "wheels": _lock_wheels(recipe["python"], left_out=frozenset(recipe["wheels_left_out"])),
    }
    LOCK.write_text(json.dumps(value, indent=1) + "\n")


def fetch(progress: Progress) -> None:
    """Download every locked input into the cache. An input is accepted by its SHA-256 only."""
    locked = load(LOCK)
    (CACHE / "debs").mkdir(parents=True, exist_ok=True)
    (CACHE / "wheels").mkdir(parents=True, exist_ok=True)
    for deb in locked["debs"]:
        target = deb_path(deb)
        if target.is_file() and _sha256(target) == deb["sha256"]:
            continue
        progress(f"fetching {deb['name']} {deb['version']}")
        address = f"{mirror.mirror_of(deb['archive'])}/{deb['path']}"
        try:
            data = mirror.download(address, bytes_max=mirror.PACKAGE_BYTES_MAX)
        except (urllib.error.URLError, TimeoutError) as exc:
            raise BuildError(
                f"{deb['name']} {deb['version']} is not on the mirror any more: {exc}", hint=_REFRESH
            ) from exc
        if hashlib.sha256(data).hexdigest() != deb["sha256"]:
            raise BuildError(f"{deb['name']}: the mirror's file has another SHA-256", hint=_REFRESH)
        _write(target, data)
    missing = [w for w in locked["wheels"] if not _cached(wheel_path(w), w["sha256"])]
    if missing:
        progress(f"fetching {len(missing)} wheels with pip")
        _fetch_wheels(missing)


def deb_path(deb: dict[str, Any]) -> Path:
    return CACHE / "debs" / Path(deb["path"]).name


def wheel_path(wheel: dict[str, Any]) -> Path:
    return CACHE / "wheels" / str(wheel["file"])


def require_cached(locked: dict[str, Any]) -> None:
    """Raise unless every input of an image is in the cache with its locked SHA-256."""
    debs = [deb for deb in locked["debs"] if deb["group"] != "headers"]
    for path, sha256 in [(deb_path(d), d["sha256"]) for d in debs] + [
        (wheel_path(w), w["sha256"]) for w in locked["wheels"]
    ]:
        if not _cached(path, sha256):
            raise BuildError(f"{path.name} is not in the cache", hint="python3 tdx-images/build.py fetch")


def _image_of(known: dict[str, mirror.Package], meta: str) -> str:
    """Return the kernel's package to which a meta package refers."""
    found = re.search(r"linux-image-\d\S*", _find(known, meta).depends)
    if found is None:
        raise BuildError(f"{meta} names no kernel", hint="check tdx-images/recipe.json")
    return found[0]


def _find(known: dict[str, mirror.Package], name: str) -> mirror.Package:
    if name not in known:
        raise BuildError(f"no suite has the package {name}", hint="check tdx-images/recipe.json")
    return known[name]


def _entry(package: mirror.Package) -> dict[str, str]:
    return {
        "name": package.name,
        "version": package.version,
        "archive": package.archive,
        "path": package.path,
        "sha256": package.sha256,
    }


def _pip_download(python: str, folder: str, *arguments: str) -> None:
    digits = python.replace(".", "")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}", "--dest", folder]
    command += [f"--abi=cp{digits}", "--abi=abi3", "--abi=none"]
    command += [f"--platform={platform}" for platform in _PLATFORMS]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"pip cannot get the wheels: {done.stderr.strip()[-800:]}", hint=_REFRESH)


def _lock_wheels(python: str, *, left_out: frozenset[str]) -> list[dict[str, str]]:
    """Lock the project's own locked versions as wheels for the image's interpreter, but not Windows'."""
    text = (PROJECT / "requirements.lock").read_text()
    lines = [line for line in text.splitlines() if "sys_platform == 'win32'" not in line]
    pins = set(re.findall(r"^([A-Za-z0-9_.\-]+==[^\s;\\]+)", "\n".join(lines), re.MULTILINE))
    unknown = left_out - {pin.split("==")[0] for pin in pins}
    if unknown or not pins:
        raise BuildError(
            f"requirements.lock does not pin {', '.join(sorted(unknown)) or 'anything'}",
            hint="check wheels_left_out in tdx-images/recipe.json",
        )
    pins = {pin for pin in pins if pin.split("==")[0] not in left_out}
    with tempfile.TemporaryDirectory() as folder:
        _pip_download(python, folder, *sorted(pins))
        files = sorted(Path(folder).glob("*.whl"))
        if len(files) != len(pins):
            raise BuildError(f"{len(pins)} pins gave {len(files)} wheels", hint="check requirements.lock")
        return [{"file": file.name, "sha256": _sha256(file)} for file in files]


def _fetch_wheels(missing: list[dict[str, str]]) -> None:
    python = load(RECIPE)["python"]
    with tempfile.TemporaryDirectory() as folder:
        lines = []
        for wheel in missing:
            name, version = wheel["file"].split("-")[:2]
            lines.append(f"{name}=={version} --hash=sha256:{wheel['sha256']}\n")
        listed = Path(folder, "requirements.txt")
        listed.write_text("".join(lines))
        _pip_download(python, folder, "--require-hashes", "-r", str(listed))
        for wheel in missing:
            file = Path(folder, wheel["file"])
            if not _cached(file, wheel["sha256"]):
                raise BuildError(f"pip did not download {wheel['file']}", hint=_REFRESH)
            _write(wheel_path(wheel), file.read_bytes())


def _cached(path: Path, sha256: str) -> bool:
    return path.is_file() and _sha256(path) == sha256


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write(path: Path, data: bytes) -> None:
    """Write the whole file or nothing."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)
