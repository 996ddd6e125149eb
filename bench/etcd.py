"""The same puts against etcd: three members with TLS on this machine, through its HTTP gateway.

    python -m bench.etcd [--seconds 5] [--clients 1,16,64]

Needs the program ``etcd`` (Debian: etcd-server). Run it right before or after ``bench.cluster``: machines
differ, and one machine differs from hour to hour.
"""

import argparse
import asyncio
import base64
import json
import shutil
import ssl
import tempfile
import time
from pathlib import Path

import httpx
import uvloop

from bench.cluster_process import CLOCK_TICKS, percentile
from bench.http_load import post, run_load

MEMBERS = 3


def command(i: int, directory: Path, port: int) -> list[str]:
    peers = ",".join(f"m{k}=https://127.0.0.1:{port + 100 + k}" for k in range(MEMBERS))
    client, peer = f"https://127.0.0.1:{port + i}", f"https://127.0.0.1:{port + 100 + i}"
    return [
        "etcd", "--name", f"m{i}", "--data-dir", str(directory / f"m{i}"),
        "--listen-client-urls", client, "--advertise-client-urls", client,
        "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
        "--initial-cluster", peers, "--auto-tls", "--peer-auto-tls",
        "--logger", "zap", "--log-level", "error",
    ]  # fmt: skip


def cpu_seconds(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / CLOCK_TICKS


def any_certificate() -> ssl.SSLContext:
    """The members' certificates are made at start, and this is loopback."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def leader_of(ports: list[int], tls: ssl.SSLContext) -> int:
    async with httpx.AsyncClient(verify=tls) as client:
        for _ in range(100):
            try:
                for port in ports:
                    answer = await client.post(f"https://127.0.0.1:{port}/v3/maintenance/status", json={})
                    status = answer.json()
                    if status.get("leader") == status["header"]["member_id"]:
                        return port
            except (httpx.HTTPError, KeyError):
                pass
            await asyncio.sleep(0.2)
    raise SystemExit("etcd has no leader")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--clients", default="1,16,64")
    parser.add_argument("--port", type=int, default=9480)
    args = parser.parse_args()
    if shutil.which("etcd") is None:
        raise SystemExit("etcd is missing. hint: apt-get install etcd-server")
    with tempfile.TemporaryDirectory(prefix="bondstone-bench-") as directory:
        processes = [
            await asyncio.create_subprocess_exec(
                *command(i, Path(directory), args.port),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            for i in range(MEMBERS)
        ]
        try:
            tls = any_certificate()
            port = await leader_of([args.port + i for i in range(MEMBERS)], tls)
            runs = []
            for clients in map(int, args.clients.split(",")):
                requests = [
                    post(
                        "/v3/kv/put",
                        json.dumps(
                            {
                                "key": base64.b64encode(b"bench/%d" % i).decode(),
                                "value": base64.b64encode(b"v" * 64).decode(),
                            }
                        ).encode(),
                        token=None,
                    )
                    for i in range(clients)
                ]
                before = cpu_seconds([process.pid for process in processes])
                load, took = await run_load(requests, port=port, tls=tls, seconds=args.seconds)
                cpu = cpu_seconds([process.pid for process in processes]) - before
                latencies = sorted(load.latencies)
                if not latencies:
                    raise SystemExit(f"no put succeeded: {load.first_failure}")
                runs.append(
                    {
                        "clients": clients,
                        "puts_per_second": round(len(latencies) / took),
                        "p50_ms": round(percentile(latencies, 0.5) * 1000, 2),
                        "p99_ms": round(percentile(latencies, 0.99) * 1000, 2),
                        "failures": load.failures,
                        "cpu_seconds_per_10000_puts": round(cpu / len(latencies) * 10_000, 2),
                    }
                )
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            print(json.dumps({"at": at, "etcd_leader": runs}, indent=2))
        finally:
            for process in processes:
                process.kill()
                await process.wait()


if __name__ == "__main__":
    uvloop.run(main())
