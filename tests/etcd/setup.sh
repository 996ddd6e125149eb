#!/bin/bash
# setup.sh - what the harness needs, from Debian and PyPI, into $HARNESS_HOME (default $HOME/.cache/etcd-harness).
set -e
V=${HARNESS_HOME:-$HOME/.cache/etcd-harness}; mkdir -p "$V"
[ -e "$V/.ready" ] && exit 0
apt-get install -y -qq --no-install-recommends etcd-server etcd-client golang-etcd-server-dev curl openssl >/dev/null
python3 -m venv "$V/vclients"; "$V/vclients/bin/pip" install -q grpcio grpcio-tools protobuf
touch "$V/.ready"
