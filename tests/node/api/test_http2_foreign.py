"""Stacks of others against the server, where they are installed: nghttp2's tools, and Node's own HTTP/2."""

import json
import re
import shutil
import subprocess

import pytest

from tests.node.api.fakes import FakeService, served, write_ca
from tests.node.api.raw import AUTHORIZATION, PUT

NODE = """
const http2 = require('http2'), fs = require('fs');
const [port, ca, authorization] = process.argv.slice(2);
const session = http2.connect('https://localhost:' + port, {ca: fs.readFileSync(ca)});
const seen = {};
let left = 150;
for (let i = 0; i < 150; i++) {
  const request = session.request({':method': 'POST', ':path': '/v1/commands', authorization,
                                   'content-type': 'application/json'});
  let status = 0, body = '';
  request.on('response', headers => { status = headers[':status']; });
  request.on('data', part => { body += part; });
  request.on('error', error => { status = error.message; });
  request.on('close', () => {
    if (status === 200) status = 'revision' in JSON.parse(body).result;
    seen[status] = (seen[status] || 0) + 1;
    if (--left === 0) { console.log(JSON.stringify(seen)); session.close(); }
  });
  const value = 'x'.repeat(i % 7 ? 10 : 300000);
  request.end(JSON.stringify({command: {op: 'put', key: 'a', value}}));
}
"""


def found(name):
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_nodes_own_client_sends_more_requests_at_once_than_there_are_places(tmp_path):
    node, script = found("node"), tmp_path / "client.js"
    script.write_text(NODE)
    service = FakeService()
    with served(service) as port:
        out = run(node, str(script), str(port), str(write_ca(tmp_path)), AUTHORIZATION["authorization"])

    assert json.loads(out) == {"true": 150}
    assert len(service.executed) == 150


def test_nghttp_gets_an_answer_and_goes_away_in_peace(tmp_path):
    nghttp = found("nghttp")
    with served(FakeService()) as port:
        out = run(nghttp, "-v", f"https://localhost:{port}/healthz")

    assert ":status: 200" in out
    assert '{"status":"ok"}' in out
    assert "NO_ERROR" in out


def test_h2load_gets_an_answer_for_every_request(tmp_path):
    h2load, body = found("h2load"), tmp_path / "body"
    body.write_text(json.dumps(PUT))
    fields = [f"authorization: {AUTHORIZATION['authorization']}", "content-type: application/json"]
    service = FakeService()
    with served(service) as port:
        out = run(
            h2load, "-n", "600", "-c", "3", "-m", "50", "-d", str(body),
            *(part for line in fields for part in ("-H", line)), f"https://localhost:{port}/v1/commands",
        )  # fmt: skip

    assert re.search(r"status codes: 600 2xx, 0 3xx, 0 4xx, 0 5xx", out)
    assert len(service.executed) == 600
