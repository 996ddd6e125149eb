"""Python stubs of etcd's API, made from the .proto files that Debian's golang-etcd-server-dev installs.

Nothing of etcd is kept here: the files are read where the package put them, their gogoproto and gateway options are
dropped, and grpcio-tools writes the stubs to a cache directory. ``load()`` returns the modules by name.
"""

import importlib
import os
import pathlib
import re
import sys

SOURCE = pathlib.Path(os.environ.get("ETCD_PROTO_ROOT", "/usr/share/gocode/src/go.etcd.io/etcd"))
FILES = {
    "kv.proto": "mvcc/mvccpb/kv.proto",
    "auth.proto": "auth/authpb/auth.proto",
    "rpc.proto": "etcdserver/etcdserverpb/rpc.proto",
    "v3lock.proto": "etcdserver/api/v3lock/v3lockpb/v3lock.proto",
    "v3election.proto": "etcdserver/api/v3election/v3electionpb/v3election.proto",
}
OUT = pathlib.Path(os.environ.get("HARNESS_RUN", os.path.expanduser("~/.cache/etcd-harness/run"))) / "stubs"


def _plain(text):
    text = re.sub(r'import "(gogoproto|google/api).*?";', "", text)
    text = re.sub(r"option \((gogoproto|versionpb)[^;]*;", "", text)
    text = re.sub(r"option \(google\.api\.http\) = \{.*?\};", "", text, flags=re.DOTALL)
    text = re.sub(r"\[\((gogoproto|versionpb)[^\]]*\]", "", text)
    return re.sub(r'import "etcd/(?:[a-z0-9]+/)*([a-z0-9]+\.proto)"', r'import "\1"', text)


def load():
    if not (OUT / "v3election_pb2_grpc.py").exists():
        from grpc_tools import protoc

        OUT.mkdir(parents=True, exist_ok=True)
        for name, path in FILES.items():
            text = _plain((SOURCE / path).read_text())
            text = re.sub(r"    }\n(?=  rpc|}\n)", "    }\n", text)
            (OUT / name).write_text(text)
        arguments = ["protoc", f"-I{OUT}", f"--python_out={OUT}", f"--grpc_python_out={OUT}"]
        if protoc.main(arguments + [str(OUT / name) for name in FILES]):
            raise SystemExit("protoc failed")
    if str(OUT) not in sys.path:
        sys.path.insert(0, str(OUT))
    names = (
        "kv_pb2",
        "auth_pb2",
        "rpc_pb2",
        "rpc_pb2_grpc",
        "v3lock_pb2",
        "v3lock_pb2_grpc",
        "v3election_pb2",
        "v3election_pb2_grpc",
    )
    return {name: importlib.import_module(name) for name in names}


if __name__ == "__main__":
    print(sorted(load()))
