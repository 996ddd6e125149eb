"""etcdctl's commands against one endpoint, with what they must print. --etcdctl PATH chooses the binary (3.4 or 3.5)."""

import json
import os
import re
import subprocess
import tempfile
import threading
import time

import target

p = __import__("argparse").ArgumentParser()
p.add_argument("--etcdctl", default="etcdctl")
p.add_argument("--perf", action="store_true", help="also `check perf` and `check datascale` (a minute each)")
a = p.parse_args(target.rest)
ENV = {**os.environ, "ETCDCTL_API": "3"}
BASE = [a.etcdctl, "--endpoints", target.endpoint]
for flag, value in (("--cacert", target.ca), ("--cert", target.cert), ("--key", target.key)):
    if value:
        BASE += [flag, value]
if target.user:
    BASE += ["--user", f"{target.user}:{target.password}"]
X = f"ctl/{int(time.time() * 1000)}/"
report = target.Report(
    "etcdctl-"
    + subprocess.run([a.etcdctl, "version"], env=ENV, capture_output=True, text=True).stdout.split()[2]
)


def ctl(*words, stdin=None, ok=True, both=False, timeout=30):
    done = subprocess.run(
        [*BASE, *words],
        env=ENV,
        input=stdin,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
    )
    if ok is not None:
        assert (done.returncode == 0) == ok, (
            f"exit {done.returncode}: {done.stdout[-300:]} {done.stderr[-300:]}"
        )
    return done.stdout if ok and not both else done.stdout + done.stderr


def js(*words, **kw):
    return json.loads(ctl(*words, "-w", "json", **kw))


def has(text, *patterns):
    for pattern in patterns:
        assert re.search(pattern, text, re.MULTILINE), f"{pattern!r} not in {text[:300]!r}"


def spawn(*words):
    return subprocess.Popen(
        [*BASE, *words],
        env=ENV,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines_of(process, count, timeout=5):
    got = []

    def read():
        for line in process.stdout:
            got.append(line.rstrip("\n"))
            if len(got) >= count:
                return

    t = threading.Thread(target=read, daemon=True)
    t.start()
    t.join(timeout)
    assert len(got) >= count, f"only {got}"
    return got


def put_get():
    has(ctl("put", X + "a", "1"), "^OK$")
    assert ctl("get", X + "a") == f"{X}a\n1\n"
    assert ctl("get", X + "a", "--print-value-only") == "1\n"
    assert ctl("get", X + "a", "--keys-only").strip() == X + "a"
    assert ctl("get", X + "none") == ""
    has(ctl("put", X + "a", "2", "--prev-kv"), "OK", X + "a", "1")
    has(ctl("put", X + "a", "--ignore-value"), "OK")
    assert ctl("get", X + "a", "--print-value-only") == "2\n"
    has(ctl("put", X + "nokey", "--ignore-value", ok=False), "key not found")
    ctl("put", X + "stdin", stdin="from stdin")
    assert ctl("get", X + "stdin", "--print-value-only").startswith("from stdin")


def get_flags():
    for i in range(5):
        ctl("put", f"{X}p{i}", f"{9 - i}")
    assert ctl("get", "--prefix", X + "p", "--limit", "2", "--print-value-only").split() == ["9", "8"]
    assert ctl("get", X + "p1", X + "p3", "--print-value-only").split() == ["8", "7"]
    assert ctl(
        "get", "--prefix", X + "p", "--sort-by", "VALUE", "--order", "ASCEND", "--print-value-only"
    ).split() == list("56789")
    assert ctl("get", "--prefix", X + "p", "--order", "DESCEND", "--keys-only").split()[0] == X + "p4"
    for by in ("CREATE", "KEY", "MODIFY", "VERSION"):
        assert (
            len(ctl("get", "--prefix", X + "p", "--sort-by", by, "--order", "DESCEND", "--keys-only").split())
            == 5
        )
    assert len(ctl("get", "--from-key", X + "p3", "--print-value-only", "--limit", "2").split()) == 2
    assert js("get", "--prefix", X + "p", "--consistency", "s")["count"] == 5
    rev = js("get", X + "p0")["header"]["revision"]
    ctl("put", X + "p0", "new")
    assert ctl("get", X + "p0", "--rev", str(rev), "--print-value-only") == "9\n"
    has(ctl("get", X + "p0", "--rev", str(rev + 1000000), ok=False), "required revision is a future revision")
    for form in ("fields", "json", "protobuf", "simple"):
        assert ctl("get", X + "p1", "-w", form)
    has(ctl("get", X + "p1", "--hex"), r"\\x63\\x74\\x6c")


def delete():
    for i in range(3):
        ctl("put", f"{X}d{i}", str(i))
    assert ctl("del", X + "d0").strip() == "1"
    assert ctl("del", X + "d0").strip() == "0"
    has(ctl("del", "--prefix", X + "d", "--prev-kv"), "^2$", "^1$")
    ctl("put", X + "dz", "1")
    assert int(ctl("del", X + "d", X + "e").strip()) == 1


def txn():
    ctl("put", X + "t", "1")
    out = ctl("txn", stdin=f'value("{X}t") = "1"\n\nput {X}t 2\nget {X}t\n\nput {X}t 3\n\n')
    has(out, "^SUCCESS$", "^OK$", "^2$")
    out = ctl("txn", stdin=f'mod("{X}t") > "0"\nver("{X}t") = "9"\n\n\nget {X}t\ndel {X}t\n\n')
    has(out, "^FAILURE$", "^2$", "^1$")
    has(ctl("txn", stdin=f'ver("{X}t") = "0"\n\nput {X}t 5\n\n\n'), "^SUCCESS$")
    has(ctl("txn", stdin=f"\nput {X}t 1\nput {X}t 2\n\n\n", ok=False), "duplicate key given in txn request")
    has(ctl("txn", "--interactive", stdin=f'value("{X}t") = "5"\n\nget {X}t\n\n\n'), "compares:", "SUCCESS")


def watch():
    w = spawn("watch", "--prefix", X + "w", "--prev-kv")
    time.sleep(0.7)
    ctl("put", X + "w1", "a")
    ctl("put", X + "w1", "b")
    ctl("del", X + "w1")
    got = lines_of(w, 11)
    w.kill()
    assert got[0] == "PUT" and got[-3:] and "DELETE" in got, got
    rev = js("put", X + "w2", "x")["header"]["revision"]
    ctl("put", X + "w2", "y")
    w = spawn("watch", X + "w2", "--rev", str(rev))
    assert lines_of(w, 6) == ["PUT", X + "w2", "x", "PUT", X + "w2", "y"]
    w.kill()
    w = spawn("watch", "-i")
    w.stdin.write(f"watch {X}w3\nwatch {X}w4\n")
    w.stdin.flush()
    time.sleep(0.7)
    ctl("put", X + "w4", "i")
    assert lines_of(w, 3)[:3] == ["PUT", X + "w4", "i"]
    w.stdin.write("progress\n")
    w.stdin.flush()
    has(lines_of(w, 1)[0], r"progress notify: \d+")
    w.kill()
    w = spawn("watch", X + "w5", "--", "sh", "-c", "echo got $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_VALUE")
    time.sleep(0.7)
    ctl("put", X + "w5", "hook")
    has("\n".join(lines_of(w, 4)), 'got "PUT" "hook"')
    w.kill()


def lease():
    lid = ctl("lease", "grant", "60").split()[1]
    ctl("put", X + "l", "1", "--lease", lid)
    has(
        ctl("lease", "timetolive", lid, "--keys"),
        r"granted with TTL\(60s\), remaining\(\d+s\), attached keys\(\[ctl",
    )
    has(ctl("lease", "list"), lid)
    has(ctl("lease", "keep-alive", "--once", lid), r"keepalived with TTL\(60\)")
    has(ctl("put", X + "l", "2", "--ignore-lease"), "OK")
    has(ctl("lease", "revoke", lid), f"lease {lid} revoked")
    assert ctl("get", X + "l") == ""
    has(ctl("lease", "timetolive", lid), "already expired")
    has(ctl("lease", "revoke", lid, ok=False), "requested lease not found")
    k = spawn("lease", "keep-alive", ctl("lease", "grant", "2").split()[1])
    assert len(lines_of(k, 2, 5)) == 2
    k.kill()


def compaction():
    ctl("put", X + "c", "1")
    rev = js("put", X + "c", "2")["header"]["revision"]
    ctl("put", X + "c", "3")
    has(ctl("compaction", str(rev)), f"compacted revision {rev}")
    has(ctl("get", X + "c", "--rev", str(rev - 1), ok=False), "required revision has been compacted")
    has(ctl("compaction", str(rev), ok=False), "required revision has been compacted")
    has(ctl("compaction", "--physical", str(rev + 1)), "compacted revision")
    w = subprocess.run(
        [*BASE, "watch", X + "c", "--rev", str(rev - 1)], env=ENV, capture_output=True, text=True, timeout=10
    )
    has(w.stdout + w.stderr, "required revision has been compacted")


def lock():
    first = spawn("lock", X + "lock")
    has(lines_of(first, 1)[0], X + r"lock/[0-9a-f]+")
    second = spawn("lock", X + "lock", "echo", "locked")
    time.sleep(0.7)
    assert second.poll() is None
    first.send_signal(2)
    first.wait(5)
    assert lines_of(second, 1) == ["locked"]
    assert second.wait(10) == 0
    third = subprocess.run(
        [*BASE, "lock", "--ttl", "5", X + "lock", "sh", "-c", "exit 7"],
        env=ENV,
        capture_output=True,
        text=True,
        timeout=10,
    )
    return (
        f"exit code of the command is {'kept' if third.returncode == 7 else f'not kept ({third.returncode})'}"
    )


def elect():
    one = spawn("elect", X + "el", "one")
    assert lines_of(one, 2)[1] == "one"
    two = spawn("elect", X + "el", "two")
    listen = spawn("elect", "-l", X + "el")
    assert lines_of(listen, 2)[1] == "one"
    one.send_signal(2)
    one.wait(5)
    assert lines_of(two, 2)[1] == "two"
    assert lines_of(listen, 2)[1] == "two"
    for x in (two, listen):
        x.send_signal(2)
        x.wait(5)


def members():
    has(ctl("member", "list"), r"[0-9a-f]+, started, ")
    m = js("member", "list")
    assert m["members"][0]["ID"] and m["header"]["cluster_id"]
    has(ctl("member", "list", "-w", "table"), "IS LEARNER")
    has(ctl("member", "remove", "123", ok=False), "[Mm]ember not found")


def endpoint():
    has(ctl("endpoint", "health", both=True), "is healthy")
    s = js("endpoint", "status")[0]["Status"]
    assert s["version"] and s["leader"]
    has(ctl("endpoint", "status", "-w", "table"), "IS LEADER")
    assert js("endpoint", "hashkv")[0]["HashKV"]["hash"]
    has(ctl("endpoint", "hashkv", "--rev", "0"), r", \d+")
    # --cluster goes to the members' advertised client URLs: with a TLS server these must be the TLS ones
    return "cluster: " + ctl("endpoint", "health", "--cluster", ok=None).strip().replace("\n", " ")[:120]


def alarm_defrag():
    assert ctl("alarm", "list").strip() == ""
    ctl("alarm", "disarm")
    has(ctl("defrag"), "Finished defragmenting")


def snapshot():
    with tempfile.TemporaryDirectory() as d:
        ctl("snapshot", "save", d + "/s.db")
        done = subprocess.run(
            [a.etcdctl, "snapshot", "status", d + "/s.db", "-w", "json"],
            env=ENV,
            capture_output=True,
            text=True,
        )
        return json.loads(done.stdout)


def move_leader():
    has(ctl("move-leader", "1", ok=False), "bad leader transferee|no leader endpoint|not leader|leader")


def make_mirror():
    ctl("put", X + "m/a", "1")
    m = subprocess.Popen(
        [
            *BASE,
            "make-mirror",
            "--prefix",
            X + "m/",
            "--dest-prefix",
            X + "mirror/",
            target.endpoint,
            *(["--dest-cacert", target.ca] if target.ca else []),
            *(["--dest-cert", target.cert, "--dest-key", target.key] if target.cert else []),
            *([] if target.tls else ["--dest-insecure-transport"]),
        ],
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        for _ in range(30):
            time.sleep(0.2)
            if ctl("get", X + "mirror/a"):
                break
        ctl("put", X + "m/b", "2")
        for _ in range(30):
            time.sleep(0.2)
            if ctl("get", X + "mirror/b"):
                return
        raise AssertionError(
            ctl("get", "--prefix", X + "mirror") + ((m.poll() is not None and m.stdout.read()) or "")
        )
    finally:
        m.kill()


def users_roles_auth():
    """Turns authentication on and off again: needs a server without other users."""
    u = lambda *w, **kw: ctl(*w, **kw)
    u("user", "add", "root:rootpw")
    u("role", "add", "root")
    u("user", "grant-role", "root", "root")
    u("role", "add", "reader")
    u("role", "grant-permission", "reader", "--prefix=true", "read", X + "pub/")
    u("role", "grant-permission", "reader", "readwrite", X + "own", X + "own9")
    has(u("role", "get", "reader"), "KV Read:", "KV Write:")
    u("user", "add", "ann:annpw")
    u("user", "grant-role", "ann", "reader")
    has(u("user", "get", "ann", "--detail"), "Role reader")
    assert "ann" in u("user", "list") and "reader" in u("role", "list")
    u("put", X + "pub/x", "1")
    u("put", X + "secret", "1")
    try:
        has(u("auth", "enable"), "Authentication Enabled")
        has(u("get", X + "pub/x", ok=False), "user name is empty")
        ann = lambda *w, **kw: ctl("--user", "ann:annpw", *w, **kw)
        assert ann("get", X + "pub/x", "--print-value-only") == "1\n"
        has(ann("get", X + "secret", ok=False), "permission denied")
        has(ann("put", X + "pub/x", "2", ok=False), "permission denied")
        has(ann("put", X + "own5", "2"), "OK")
        has(ann("get", "--prefix", X, ok=False), "permission denied")
        has(ann("user", "add", "eve:x", ok=False), "permission denied")
        has(ann("role", "add", "x", ok=False), "permission denied")
        has(
            ctl("--user", "ann:wrong", "get", X + "pub/x", ok=False),
            "authentication failed, invalid user ID or password",
        )
        has(
            ctl("--user", "root:rootpw", "role", "revoke-permission", "reader", X + "own", X + "own9"),
            "revoked",
        )
        has(ann("put", X + "own5", "3", ok=False), "permission denied")
        ctl("--user", "root:rootpw", "user", "passwd", "ann", "--interactive=false", stdin="new\n")
        assert ctl("--user", "ann:new", "get", X + "pub/x", "--print-value-only") == "1\n"
        has(ctl("--user", "root:rootpw", "auth", "disable"), "Authentication Disabled")
    finally:
        ctl("--user", "root:rootpw", "auth", "disable", ok=None)
        for x in ("ann", "root"):
            ctl("user", "delete", x, ok=None)
        for x in ("reader", "root"):
            ctl("role", "delete", x, ok=None)


def check_perf():
    if not a.perf:
        raise target.Skip("--perf")
    out = ctl("check", "perf", "--load", "s", ok=None, timeout=120)
    assert "PASS" in out and "FAIL" not in out, out[-300:]
    return re.sub(r"\s+", " ", out)[-300:]


def check_datascale():
    if not a.perf:
        raise target.Skip("--perf")
    # reads process_resident_memory_bytes from ENDPOINT/metrics; over TLS it insists on a client certificate
    out = ctl("check", "datascale", "--load", "s", "--auto-compact", "--auto-defrag", ok=None, timeout=200)
    assert "PASS" in out and "FAIL" not in out, out[-300:]
    return re.sub(r"\s+", " ", out)[-300:]


for one in (
    put_get,
    get_flags,
    delete,
    txn,
    watch,
    lease,
    compaction,
    lock,
    elect,
    members,
    endpoint,
    alarm_defrag,
    snapshot,
    move_leader,
    make_mirror,
    users_roles_auth,
    check_perf,
    check_datascale,
):
    report.run(one.__name__, one)
report.end()
