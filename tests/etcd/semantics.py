"""etcd v3's behaviours over gRPC, case by case, with the exact status codes and messages. levels.toml has the level of each.

Run it against etcd first (that is the truth), then against bondstone:
    python semantics.py --endpoint https://127.0.0.1:25001 --ca certs/ca.pem
"""

import cases_of_keys
import cases_of_streams
import cases_of_the_cluster
import target
from calls import CASES

__all__ = ["cases_of_keys", "cases_of_streams", "cases_of_the_cluster"]

if __name__ == "__main__":
    report = target.Report("semantics")
    for name, function in CASES:
        report.run(name, function)
    report.end()
