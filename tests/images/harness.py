"""Building and booting images in tests. Everything is software emulation: `-accel tcg`, traffic on 127.0.0.1 only."""

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

PROJECT = Path(__file__).parents[2]
SCRIPTS = PROJECT / "tdx-images"
MEMORY_MIB = 512
FIRMWARE_MEMORY_MIB = 1024

# At least four times the numbers that an idle machine of two cores is held to.
BOOT_SECONDS = 300
GROUP_SECONDS = 480


# The packages of Debian and Ubuntu that hold the programs which the tests start.
PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "swtpm": "swtpm",
    "swtpm_setup": "swtpm-tools",
    "gpgv": "gpgv",
    "gcc": "gcc",
    "make": "make",
    "bash": "bash",
    "tar": "tar",
}


def missing_tools(names, which=shutil.which):
    """Return one sentence that names the missing programs and the command that installs them; or None."""
    missing = sorted(name for name in names if which(name) is None)
    if not missing:
        return None
    wanted = " ".join(sorted({PACKAGES[name] for name in missing}))
    return f"{', '.join(missing)} missing, which the tests of images start: apt-get install {wanted}"


STALE = "not on the mirror any more"


def builder(command, lock):
    """Run one of ``build.py``'s commands with this lock, or with the committed one; return what went wrong."""
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "build.py"), command],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env=os.environ if lock is None else {**os.environ, "BONDSTONE_IMAGE_LOCK": str(lock)},
    )
    return done.stderr if done.returncode else ""


def bring_inputs(run, fresh_lock, say):
    """Bring the locked inputs here; return the lock that holds, or None for the committed one.

    Debian removes superseded packages: then, and only then, and with a warning, the run of the tests goes on with a
    fresh lock. The promises that are tested (equal builds, boots as predicted) are about any lock; the committed
    one has to be refreshed and measured again by whoever releases.
    """
    error = run("fetch", None)
    if STALE not in error:
        assert not error, error
        return None
    say(f"THE COMMITTED LOCK IS STALE, tests go on with a fresh one: {error.strip()}")
    for command in ("lock", "fetch"):
        error = run(command, fresh_lock)
        assert not error, error
    return fresh_lock


def host_offers_tdx():
    parameter = Path("/sys/module/kvm_intel/parameters/tdx")
    return parameter.exists() and parameter.read_text().strip() in {"1", "Y"}


def script(name, *arguments, python=sys.executable, project=PROJECT, **options):
    done = subprocess.run(
        [python, str(project / "tdx-images" / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=BOOT_SECONDS * 2,
        **options,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


class Running:
    """A process that prints JSON events, read by a thread; ended with the block."""

    def __init__(self, command):
        self.events = []
        self._queue = queue.SimpleQueue()
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self._process.stdout:
            self._queue.put(json.loads(line))
        self._queue.put(None)

    def until(self, wanted, *, seconds):
        """Wait for the first event for which ``wanted`` is true."""
        for event in self.events:
            if wanted(event):
                return event
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                event = self._queue.get(timeout=left)
                assert event is not None, f"the guests ended; they said: {self.events[-15:]}"
                self.events.append(event)
                if wanted(event):
                    return event
        raise AssertionError(f"not seen in {seconds} s; last: {self.events[-15:]}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(BOOT_SECONDS)
        self._reader.join(BOOT_SECONDS)
        self._process.stdout.close()


def run_guests(folder, images, *arguments, count=1, api_port):
    command = [sys.executable, str(SCRIPTS / "run.py"), "--dir", str(folder), "--api-port", str(api_port)]
    for image in images:
        command += ["--image", str(image)]
    command += ["--count", str(count)] if len(images) == 1 else []
    return Running([*command, *arguments])


def said(number, name):
    """An event in which guest ``number``'s node reported this."""

    def matches(event):
        if event["event"] != "console" or event["number"] != number:
            return False
        return event["line"].get("source") == "node" and event["line"]["event"] == name

    return matches


def boot(image, folder, *arguments, memory=MEMORY_MIB, seconds=BOOT_SECONDS):
    """Boot until the guest powers itself off; return its console."""
    console = folder / "console"
    command = [
        "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=single", "-cpu", "max", "-smp", "1",
        "-m", f"{memory}M", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-serial", f"file:{console}", *map(str, arguments),
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=seconds, stdin=subprocess.DEVNULL)
    return console.read_bytes()


def direct(image):
    command_line = json.loads((image / "image.json").read_text())["command_line"]
    return ["-kernel", image / "vmlinuz", "-initrd", image / "initrd", "-append", command_line]


def config(folder, document, *, mrconfigid=None):
    file = folder / "config"
    file.write_bytes(document)
    arguments = ["-fw_cfg", f"name=opt/bondstone/config,file={file}"]
    if mrconfigid is not None:
        digest = folder / "mrconfigid"
        digest.write_bytes(mrconfigid)
        arguments += ["-fw_cfg", f"name=opt/bondstone/mrconfigid,file={digest}"]
    return arguments


def console_events(console):
    found = []
    for line in console.splitlines():
        start = line.find(b"{")
        with contextlib.suppress(ValueError):
            found.append(json.loads(line[start:]) if start >= 0 else {})
    return [event for event in found if isinstance(event, dict) and "event" in event]


@contextlib.contextmanager
def software_tpm(folder):
    """Start a TPM 2.0 with a SHA-384 bank; yield QEMU's arguments for it."""
    state = folder / "tpm"
    state.mkdir()
    setup = ["swtpm_setup", "--tpm2", "--tpmstate", str(state), "--pcr-banks", "sha384", "--overwrite"]
    done = subprocess.run(setup, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    socket = state / "sock"
    tpm = subprocess.Popen(
        [
            "swtpm",
            "socket",
            "--tpm2",
            "--tpmstate",
            f"dir={state}",
            "--ctrl",
            f"type=unixio,path={socket}",
            "--terminate",
        ]
    )
    try:
        deadline = time.monotonic() + BOOT_SECONDS
        while not socket.exists():
            assert tpm.poll() is None, "swtpm ended"
            assert time.monotonic() < deadline, "swtpm made no socket"
            time.sleep(0.05)
        yield [
            "-chardev", f"socket,id=c,path={socket}", "-tpmdev", "emulator,id=t,chardev=c", "-device", "tpm-tis,tpmdev=t",
        ]  # fmt: skip
    finally:
        tpm.terminate()
        tpm.wait(BOOT_SECONDS)


def free_api_port():
    """A port range of its own for each test process."""
    return 18440 + 20 * (os.getpid() % 100)
