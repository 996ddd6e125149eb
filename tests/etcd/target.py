"""Where the server under test is, and how the scripts report.

Environment (or the same as options): ETCD_ENDPOINT (https://127.0.0.1:25001), ETCD_CA, ETCD_CERT, ETCD_KEY (client
certificate), ETCD_USER and ETCD_PASSWORD (etcd's own authentication), ETCD_TOKEN (sent as metadata ``token`` /
``Authorization``). Every script ends with the line ``N passed, M failed, K skipped`` and exits 1 if M > 0.
"""

import argparse
import os
import sys
import time
import traceback
from urllib.parse import urlsplit

_p = argparse.ArgumentParser(add_help=False)
for _name in ("endpoint", "ca", "cert", "key", "user", "password", "token"):
    _p.add_argument("--" + _name, default=os.environ.get("ETCD_" + _name.upper()))
_p.add_argument("--only", default="", help="substring of the case names to run")
_p.add_argument("--report", default="", help="write a tab-separated line for each case to this file")
args, rest = _p.parse_known_args()
endpoint = args.endpoint or "http://127.0.0.1:25000"
url = urlsplit(endpoint)
host, port, tls = url.hostname, url.port, url.scheme == "https"
ca, cert, key, user, password, token = args.ca, args.cert, args.key, args.user, args.password, args.token
address = f"{host}:{port}"


def channel():
    import grpc

    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    if not tls:
        return grpc.insecure_channel(address, options)
    read = lambda p: open(p, "rb").read() if p else None
    return grpc.secure_channel(
        address, grpc.ssl_channel_credentials(read(ca), read(key), read(cert)), options
    )


class Skip(Exception):
    pass


class Report:
    def __init__(self, suite):
        self.suite, self.rows = suite, []

    def run(self, name, function, *a):
        if args.only and args.only not in name:
            return None
        start = time.monotonic()
        try:
            note = function(*a)
            verdict, note = "PASS", "" if note is None else str(note)
        except Skip as exc:
            verdict, note = "SKIP", str(exc)
        except BaseException as exc:
            if isinstance(exc, KeyboardInterrupt):
                raise
            where = traceback.extract_tb(exc.__traceback__)
            mine = [f for f in where if "/tests/etcd/" in f.filename] or where
            verdict, note = "FAIL", f"{type(exc).__name__}: {str(exc)[:300]!r} line {mine[-1].lineno}"
        took = time.monotonic() - start
        self.rows.append((self.suite, name, verdict, note))
        print(f"{verdict} {self.suite}:{name} ({took:.2f} s) {note}", flush=True)
        return verdict == "PASS"

    def end(self):
        if args.report:
            with open(args.report, "a") as f:
                f.writelines("\t".join((endpoint, *row)).replace("\n", " ") + "\n" for row in self.rows)
        count = lambda v: sum(1 for r in self.rows if r[2] == v)
        print(f"{count('PASS')} passed, {count('FAIL')} failed, {count('SKIP')} skipped", flush=True)
        sys.stdout.flush()
        os._exit(1 if count("FAIL") else 0)
