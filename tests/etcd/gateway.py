"""The JSON gateway's exact shapes, over HTTP/1.1 (http.client): names, base64, int64 as text, omitted zero values, errors, streams."""

import base64
import http.client
import json
import ssl
import time

import target

report = target.Report("gateway")
B = lambda s: base64.b64encode(s if isinstance(s, bytes) else s.encode()).decode()
X = f"gw{int(time.time() * 1000)}/"


def connection(timeout=10):
    if not target.tls:
        return http.client.HTTPConnection(target.host, target.port, timeout=timeout)
    c = ssl.create_default_context(cafile=target.ca)
    if target.cert:
        c.load_cert_chain(target.cert, target.key)
    return http.client.HTTPSConnection(target.host, target.port, context=c, timeout=timeout)


def call(path, body=None, method="POST", status=None, raw=False, headers=()):
    c = connection()
    head = dict(headers)
    if target.token:
        head["Authorization"] = target.token
    c.request(
        method,
        path,
        None if body is None else body if isinstance(body, (str, bytes)) else json.dumps(body),
        head,
    )
    r = c.getresponse()
    text = r.read()
    assert status is None or r.status == status, f"{r.status} {text[:300]}"
    return (r, text) if raw else json.loads(text)


def shape():
    a = call("/v3/kv/put", {"key": B(X + "a"), "value": B("1")}, status=200)
    assert set(a) == {"header"} and all(
        isinstance(a["header"][k], str) for k in ("cluster_id", "member_id", "revision", "raft_term")
    ), a
    a = call("/v3/kv/range", {"key": B(X + "a")}, status=200)
    assert (
        a["count"] == "1"
        and "more" not in a
        and set(a["kvs"][0]) == {"key", "create_revision", "mod_revision", "version", "value"}
    ), a
    a = call("/v3/kv/range", {"key": B(X + "none")}, status=200)
    assert set(a) == {"header"}, a  # zero values and empty lists are left out
    r, _ = call("/v3/kv/range", {"key": B(X + "a")}, raw=True)
    return (
        f"content-type {r.getheader('content-type')}, headers {sorted(k.lower() for k, _ in r.getheaders())}"
    )


def numbers_and_enums():
    call("/v3/kv/put", {"key": B(X + "n"), "value": B("1"), "prev_kv": True}, status=200)
    for limit in (1, "1"):
        call("/v3/kv/range", {"key": B(X), "range_end": B(X[:-1] + "0"), "limit": limit}, status=200)
    for order, tgt in (("DESCEND", "MOD"), (2, 3)):
        call(
            "/v3/kv/range",
            {"key": B(X), "range_end": B(X[:-1] + "0"), "sort_order": order, "sort_target": tgt},
            status=200,
        )
    a = call("/v3/kv/put", {"key": B(X + "n"), "value": B("2"), "prevKv": True}, status=200)  # camelCase too
    return f"camelCase prevKv honoured: {'prev_kv' in a}"


def unknown_field():
    r, text = call("/v3/kv/put", {"key": B(X + "u"), "value": B("1"), "nope": 1}, raw=True)
    return f"{r.status} {text[:200]!r}"


def errors():
    out = []
    for path, body in (
        ("/v3/kv/range", {"key": ""}),
        ("/v3/kv/range", {"key": B("a"), "revision": "99999999999"}),
        ("/v3/kv/range", "{"),
        ("/v3/kv/range", {"key": "***"}),
        ("/v3/lease/revoke", {"ID": "77"}),
        ("/v3/kv/put", {"key": B("a"), "lease": "78"}),
        ("/v3/auth/authenticate", {"name": "x", "password": "y"}),
        ("/v3/nope", {}),
    ):
        r, text = call(path, body, raw=True)
        out.append(f"{path} {str(body)[:40]} -> {r.status} {text.decode(errors='replace').strip()[:170]}")
    r, text = call("/v3/kv/range", None, method="GET", raw=True)
    out.append(f"GET -> {r.status} {text.decode(errors='replace').strip()[:120]}")
    return "\n      " + "\n      ".join(out)


def txn():
    key = B(X + "t")
    a = call(
        "/v3/kv/txn",
        {
            "compare": [{"key": key, "target": "CREATE", "result": "EQUAL", "create_revision": "0"}],
            "success": [{"request_put": {"key": key, "value": B("1")}}, {"requestRange": {"key": key}}],
            "failure": [{"request_range": {"key": key}}],
        },
        status=200,
    )
    assert (
        a["succeeded"] is True
        and list(a["responses"][0]) == ["response_put"]
        and a["responses"][1]["response_range"]["kvs"]
    ), a
    a = call(
        "/v3/kv/txn",
        {
            "compare": [{"key": key, "target": "CREATE", "create_revision": "0"}],
            "failure": [{"request_delete_range": {"key": key}}],
        },
        status=200,
    )
    assert "succeeded" not in a and a["responses"][0]["response_delete_range"]["deleted"] == "1", a


def leases():
    a = call("/v3/lease/grant", {"TTL": 30}, status=200)
    assert isinstance(a["ID"], str) and a["TTL"] == "30", a
    lid = a["ID"]
    call("/v3/kv/put", {"key": B(X + "l"), "value": B("1"), "lease": lid}, status=200)
    a = call("/v3/lease/timetolive", {"ID": lid, "keys": True}, status=200)
    assert a["grantedTTL"] == "30" and a["keys"] == [B(X + "l")], a
    assert call("/v3/kv/lease/timetolive", {"ID": lid}, status=200)["ID"] == lid
    a = call("/v3/lease/keepalive", {"ID": lid}, status=200)
    assert a["result"]["ID"] == lid and a["result"]["TTL"] == "30", a
    gone = call("/v3/lease/keepalive", {"ID": "4711"}, status=200)
    assert any(x["ID"] == lid for x in call("/v3/lease/leases", {}, status=200)["leases"])
    assert call("/v3/kv/lease/leases", {}, status=200)
    call("/v3/lease/revoke", {"ID": lid}, status=200)
    b = call("/v3/lease/grant", {"TTL": 30}, status=200)["ID"]
    call("/v3/kv/lease/revoke", {"ID": b}, status=200)
    return f"keep-alive of an unknown lease: {gone}"


def stream(path, body):
    c = connection(8)
    c.request("POST", path, json.dumps(body), {"Authorization": target.token} if target.token else {})
    r = c.getresponse()
    return c, r


def watch():
    c, r = stream("/v3/watch", {"create_request": {"key": B(X + "w")}})
    first = json.loads(r.readline())
    assert (first["result"]["created"] is True and "watch_id" not in first["result"]) or first["result"].get(
        "watch_id"
    ) == "0", first
    call("/v3/kv/put", {"key": B(X + "w"), "value": B("1")})
    call("/v3/kv/deleterange", {"key": B(X + "w")})
    a, b = json.loads(r.readline()), json.loads(r.readline())
    assert "type" not in a["result"]["events"][0] and a["result"]["events"][0]["kv"]["value"] == B("1"), (
        a
    )  # PUT is the zero value
    assert b["result"]["events"][0]["type"] == "DELETE" and set(b["result"]["events"][0]["kv"]) == {
        "key",
        "mod_revision",
    }, b
    c.close()
    return f"status {r.status} content-type {r.getheader('content-type')} transfer-encoding {r.getheader('transfer-encoding')}"


def watch_compacted():
    rev = int(call("/v3/kv/put", {"key": B(X + "c"), "value": B("1")})["header"]["revision"])
    now = call("/v3/kv/put", {"key": B(X + "c"), "value": B("2")})["header"]["revision"]
    call("/v3/kv/compaction", {"revision": now}, status=200)
    c, r = stream("/v3/watch", {"create_request": {"key": B(X + "c"), "start_revision": str(rev)}})
    lines = [json.loads(r.readline()), json.loads(r.readline())]
    c.close()
    last = lines[1]["result"]
    assert last["canceled"] is True and last["compact_revision"] == now, lines
    return str(last)


def watch_bad():
    c, r = stream("/v3/watch", {"create_request": {"key": B("b"), "range_end": B("a")}})
    a = r.readline()
    c.close()
    return f"{r.status} {a[:200]!r}"


def cluster_maintenance():
    m = call("/v3/cluster/member/list", {}, status=200)
    assert m["members"][0]["ID"].isdigit() and m["members"][0]["clientURLs"], m
    s = call("/v3/maintenance/status", {}, status=200)
    assert s["version"] and isinstance(s["dbSize"], str), s
    v = call("/version", method="GET", status=200)
    assert set(v) == {"etcdserver", "etcdcluster"}
    h = call("/health", method="GET", status=200)
    assert h["health"] == "true", h
    a = call("/v3/maintenance/alarm", {}, status=200)
    hk = call("/v3/maintenance/hash", {}, status=200)
    return f"status keys {sorted(s)}; health {h}; alarm {a.keys()}; members {m['members']}"


def locks():
    lid = call("/v3/lease/grant", {"TTL": 30})["ID"]
    a = call("/v3/lock/lock", {"name": B(X + "lk"), "lease": lid}, status=200)
    assert base64.b64decode(a["key"]).decode() == X + "lk/%x" % int(lid)
    call("/v3/lock/unlock", {"key": a["key"]}, status=200)
    e = call("/v3/election/campaign", {"name": B(X + "el"), "lease": lid, "value": B("me")}, status=200)
    assert e["leader"]["lease"] == lid
    assert call("/v3/election/leader", {"name": B(X + "el")}, status=200)["kv"]["value"] == B("me")
    call("/v3/election/resign", {"leader": e["leader"]}, status=200)
    r, text = call("/v3/election/leader", {"name": B(X + "el")}, raw=True)
    return f"leader of none: {r.status} {text.decode().strip()}"


def prefixes():
    out = []
    for p in ("/v3alpha", "/v3beta", "/v3"):
        r, text = call(p + "/kv/range", {"key": B("a")}, raw=True)
        out.append(f"{p}: {r.status}")
    return ", ".join(out)


def snapshot():
    c, r = stream("/v3/maintenance/snapshot", {})
    a = json.loads(r.readline())
    c.close()
    return f"keys {sorted(a['result'])}"


def http2_json():
    """curl and Go's net/http choose h2 by ALPN: the JSON gateway must answer there too."""
    if not target.tls:
        raise target.Skip("TLS only")
    import subprocess

    done = subprocess.run(
        [
            "curl",
            "-sS",
            "--http2",
            "--cacert",
            target.ca,
            *(["--cert", target.cert, "--key", target.key] if target.cert else []),
            "-w",
            "\n%{http_version} %{http_code}",
            target.endpoint + "/v3/kv/range",
            "-d",
            json.dumps({"key": B("a")}),
        ],
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "2 200", done.stdout + done.stderr


for one in (
    shape,
    numbers_and_enums,
    unknown_field,
    errors,
    txn,
    leases,
    watch,
    watch_compacted,
    watch_bad,
    cluster_maintenance,
    locks,
    prefixes,
    snapshot,
    http2_json,
):
    report.run(one.__name__, one)
report.end()
