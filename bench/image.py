"""Image: size, seconds to build, to the first HTTPS answer of one emulated guest, and to a group of three.

    python -m bench.image [--out DIR]        (on an idle machine; needs qemu-system-x86)

The aims are in wall-clock seconds on an idle machine. The report also has CPU seconds: on a busy machine only
they are meaningful, and two cores need at least half of a group's sum.
"""

import argparse
import json
import os
import resource
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path

from node.process_events import GuestStarted, read_guests_event

SCRIPTS = Path(__file__).resolve().parents[1] / "tdx-images"
SECONDS_MAX = 600


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5, context=ssl._create_unverified_context()) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def guests(image: Path, count: int, port: int, path: str) -> dict[str, float]:
    """Seconds until all guests answer 200 on ``path``; CPU seconds of all QEMUs; the largest size."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(SCRIPTS / "run.py"), "--image", str(image), "--count", str(count)]
        command += ["--dir", folder, "--api-port", str(port)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            pids: list[int] = []
            for line in process.stdout:
                event = read_guests_event(line)
                if isinstance(event, GuestStarted):
                    pids.append(event.pid)
                if len(pids) == count:
                    break
            start = time.monotonic()
            waiting = {f"https://127.0.0.1:{port + n}{path}" for n in range(len(pids))}
            while waiting and time.monotonic() - start < SECONDS_MAX and process.poll() is None:
                waiting = {url for url in waiting if not answers(url)}
                time.sleep(0.2)
            seconds = time.monotonic() - start
            if waiting or len(pids) < count:
                process.terminate()
                raise SystemExit(f"{len(pids)} of {count} guests started; no answer from {sorted(waiting)}")
            cpu = [cpu_seconds(pid) for pid in pids]
            sizes = [peak_mb(pid) for pid in pids]
            process.send_signal(signal.SIGTERM)
            process.stdout.read()
        return {
            "seconds": round(seconds, 1),
            "qemu_cpu_s": round(sum(cpu), 1),
            "qemu_peak_mb": round(max(sizes)),
        }


def cpu_seconds(pid: int) -> float:
    # proc(5): utime and stime are fields 14 and 15; field 3 is the first after the name's parenthesis.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"process {pid} has ended")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--api-port", type=int, default=9640)
    parser.add_argument("--out", type=Path, default=SCRIPTS / "out" / "bench")
    arguments = parser.parse_args()
    script = [sys.executable, str(SCRIPTS / "build.py")]
    subprocess.run([*script, "fetch"], check=True)
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*script, "build", "--profile", "emulation", "--out", str(arguments.out)], check=True)
    seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    initrd = (arguments.out / "initrd").read_bytes()
    result = {
        "build": {
            "seconds": round(seconds, 1),
            "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        },
        "initrd_mb": round(len(initrd) / 1e6, 1),
        "initrd_gzip_mb": round(len(zlib.compress(initrd, 9)) / 1e6, 1),
        "one_guest_https": guests(arguments.out, 1, arguments.api_port, "/healthz"),
        "three_guests_ready": guests(arguments.out, 3, arguments.api_port + 10, "/readyz"),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
