"""Image: seconds to build, to the first HTTPS answer of one emulated guest, and to a group of three.

python -m bench.image [--out DIR]        (on an idle machine; needs qemu-system-x86)
"""

import argparse
import json
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1] / "tdx-images"
SECONDS_MAX = 600


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5, context=ssl._create_unverified_context()) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def guests(image: Path, count: int, port: int, path: str) -> dict[str, float]:
    """Seconds until all guests answer 200 on ``path``, and the largest resident size of one, in MB."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(SCRIPTS / "run.py"), "--image", str(image), "--count", str(count)]
        command += ["--dir", folder, "--api-port", str(port)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            pids = []
            while len(pids) < count:
                event = json.loads(process.stdout.readline())
                if event["event"] == "guest-started":
                    pids.append(event["pid"])
            start = time.monotonic()
            waiting = {f"https://127.0.0.1:{port + n}{path}" for n in range(count)}
            while waiting and time.monotonic() - start < SECONDS_MAX:
                waiting = {url for url in waiting if not answers(url)}
                time.sleep(0.2)
            seconds = time.monotonic() - start
            sizes = [peak_mb(pid) for pid in pids]
            process.send_signal(signal.SIGTERM)
            process.stdout.read()
        if waiting:
            raise SystemExit(f"no answer in {SECONDS_MAX} s: {sorted(waiting)}")
        return {"seconds": round(seconds, 1), "qemu_peak_mb": round(max(sizes))}


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
    start = time.monotonic()
    subprocess.run([*script, "build", "--out", str(arguments.out)], check=True)
    build_s = round(time.monotonic() - start, 1)
    result = {
        "build_s": build_s,
        "initrd_mb": round((arguments.out / "initrd").stat().st_size / 1e6, 1),
        "one_guest_https": guests(arguments.out, 1, arguments.api_port, "/healthz"),
        "three_guests_ready": guests(arguments.out, 3, arguments.api_port + 10, "/readyz"),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
