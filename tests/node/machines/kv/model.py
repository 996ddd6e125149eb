"""A small model of version 3 that keeps the whole store of every revision, for comparison."""

from bisect import insort

OPS = [lambda a, b: a == b, lambda a, b: a > b, lambda a, b: a < b, lambda a, b: a != b]


class RefusedError(Exception):
    pass


def inside(key, first, end):
    if not end:
        return key == first
    return key >= first and (end == b"\0" or key < end)


class Model:
    """``at[revision]`` is the whole store: key to (value, create, mod, version, lease)."""

    def __init__(self):
        self.at = {1: {}}
        self.floor = 0
        self.leases = set()

    @property
    def head(self):
        return max(self.at)

    def apply(self, command):
        old = self.at[self.head]
        new = dict(old)
        match command:
            case ["put", *_] | ["delete", *_]:
                (response,) = self.run(new, [command], old)
                result = response[1:]
            case ["txn", *_]:
                self.once(command)
                result = self.txn(new, command, old)
            case ["compact", revision]:
                if revision <= self.floor:
                    raise RefusedError("revision-compacted")
                if revision > self.head:
                    raise RefusedError("revision-future")
                self.floor = revision
                return [self.head]
            case ["lease-grant", number, _]:
                if number in self.leases:
                    raise RefusedError("lease-exists")
                self.leases.add(number)
                return [self.head, number, 60]
            case ["lease-revoke", number]:
                if number not in self.leases:
                    raise RefusedError("lease-not-found")
                self.leases.discard(number)
                gone = [key for key in old if old[key][4] == number]
                for key in gone:
                    del new[key]
                result = [len(gone)]
        if new != old:
            self.at[self.head + 1] = new
        return [self.head, *result]

    def once(self, txn):
        """Return the keys that are put and the ranges that are deleted on any path."""
        branches = []
        for operations in txn[2:]:
            puts, spans = set(), []
            for operation in operations:
                own_puts, own_spans = set(), []
                match operation:
                    case ["put", key, *_]:
                        own_puts = {key}
                    case ["delete", key, end, _]:
                        own_spans = [(key, end)]
                    case ["txn", *_]:
                        own_puts, own_spans = self.once(operation)
                clash = puts & own_puts
                clash |= {key for key in own_puts for span in spans if inside(key, *span)}
                clash |= {key for key in puts for span in own_spans if inside(key, *span)}
                if clash:
                    raise RefusedError("duplicate-key")
                puts |= own_puts
                spans += own_spans
            branches.append((puts, spans))
        return branches[0][0] | branches[1][0], branches[0][1] + branches[1][1]

    def txn(self, new, txn, old):
        succeeded = all(self.holds(old, compare) for compare in txn[1])
        return [succeeded, self.run(new, txn[2] if succeeded else txn[3], old)]

    def holds(self, old, compare):
        target, result, first, end, operand = compare
        found = [old[key] for key in old if inside(key, first, end)] or [None]
        for item in found:
            if target == 3:
                good = item is not None and OPS[result](item[0], operand)
            else:
                _, create, mod, version, lease = item or (b"", 0, 0, 0, 0)
                good = OPS[result]([version, create, mod, None, lease][target], operand)
            if not good:
                return False
        return True

    def run(self, new, operations, old):
        responses = []
        for operation in operations:
            match operation:
                case ["put", key, value, lease, flags]:
                    before = new.get(key)
                    if flags & 6 and before is None:
                        raise RefusedError("key-not-found")
                    if lease and lease not in self.leases:
                        raise RefusedError("lease-not-found")
                    if flags & 2:
                        value = before[0]
                    if flags & 4:
                        lease = before[4]
                    mod = self.head + 1
                    create, version = (mod, 1) if before is None else (before[1], before[3] + 1)
                    new[key] = (value, create, mod, version, lease)
                    responses.append(["put", [key, *before] if flags & 1 and before else None])
                case ["delete", first, end, flags]:
                    gone = sorted(key for key in new if inside(key, first, end))
                    rows = [[key, *new.pop(key)] for key in gone]
                    responses.append(["delete", len(gone), rows if flags & 1 else []])
                case ["range", *_]:
                    responses.append(["range", *self.range(operation, new)])
                case ["txn", *_]:
                    responses.append(["txn", *self.txn(new, operation, old)])
        return responses

    def range(self, query, now=None):
        _, first, end, limit, at, order, target, flags, min_mod, max_mod, min_create, max_create = query
        if at > self.head:
            raise RefusedError("revision-future")
        if 0 < at < self.floor:
            raise RefusedError("revision-compacted")
        state = self.at[at] if at > 0 else self.at[self.head] if now is None else now
        rows = []
        for key in state:
            if inside(key, first, end):
                insort(rows, [key, *state[key]])
        count = len(rows)
        rows = [row for row in rows if row[3] >= min_mod and (not max_mod or row[3] <= max_mod)]
        rows = [row for row in rows if row[2] >= min_create and (not max_create or row[2] <= max_create)]
        column = [0, 4, 2, 3, 1][target]
        rows = sorted(rows, key=lambda row: row[column], reverse=order == 2)
        more = 0 < limit < len(rows)
        rows = rows[:limit] if limit > 0 else rows
        if flags & 1:
            rows = [[row[0], b"", *row[2:]] for row in rows]
        return [[], False, count] if flags & 2 else [rows, more, count]
