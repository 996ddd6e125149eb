"""Rules of the code that no linter knows. Each names the one place where a thing is done, and keeps others out."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from node.api.operations import OPERATIONS
from node.system.grants import AccessRole
from tests.node.api.calls import CALLS

PROJECT = Path(__file__).parents[1]
PACKAGES = ("attestation", "enclave", "node")


def sources(*, without: tuple[str, ...] = ()) -> Iterator[tuple[str, ast.Module]]:
    """Yield the name and the syntax tree of each module, but those under ``without``."""
    return ((name, tree) for name, tree in _parsed() if not name.startswith(without))


@cache
def _parsed() -> list[tuple[str, ast.Module]]:
    return [
        (path.relative_to(PROJECT).as_posix(), ast.parse(path.read_text()))
        for package in PACKAGES
        for path in sorted((PROJECT / package).rglob("*.py"))
    ]


def calls(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and the dotted name of each call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node.lineno, dotted(node.func)


def dotted(node: ast.AST) -> str:
    match node:
        case ast.Name(name):
            return name
        case ast.Attribute(value, name):
            return f"{dotted(value)}.{name}"
        case ast.Call(function):
            return f"{dotted(function)}()"
        case _:
            return "?"


def task_groups(tree: ast.AST) -> set[str]:
    """Return the names that stand for an ``asyncio.TaskGroup``: it waits for its tasks, and raises."""
    names = {
        item.optional_vars.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncWith)
        for item in node.items
        if dotted(item.context_expr) == "asyncio.TaskGroup()" and isinstance(item.optional_vars, ast.Name)
    }
    return names | {
        node.arg
        for node in ast.walk(tree)
        if isinstance(node, ast.arg) and node.annotation and dotted(node.annotation) == "asyncio.TaskGroup"
    }


def test_background_work_is_started_in_one_place_that_reports_how_it_ends() -> None:
    found = [
        f"{name}:{line}: {call}"
        for name, tree in sources(without=("attestation/background.py",))
        for groups in [task_groups(tree)]
        for line, call in calls(tree)
        if call.rsplit(".")[-1] in {"create_task", "ensure_future"} and call.split(".")[0] not in groups
    ]
    assert found == [], "use attestation.background.Background: a bare task ends without a word"


# Who may open files by other means, and why.
OPENS_ITSELF = (
    "attestation/files.py",  # the place
    "enclave/tsm.py",  # kernel interfaces that look like files: their own rules
    "node/api/server.py",  # a descriptor without a name
    "node/simulation/compiled.py",  # a tool for developers
    "node/cli/node.py",  # /dev/null
    "node/installation.py",  # what an installed package declares of itself
)
OPENING = {
    "open",
    "read_bytes",
    "read_text",
    "write_bytes",
    "write_text",
    "mkstemp",
    "NamedTemporaryFile",
    "touch",
}


def test_files_are_opened_in_one_place_that_bounds_and_names_them() -> None:
    found = [
        f"{name}:{line}: {call}"
        for name, tree in sources(without=OPENS_ITSELF)
        for line, call in calls(tree)
        if call.rsplit(".")[-1] in OPENING and call.split(".")[0] != "files" and call not in imported(tree)
        if not is_directory(tree, line)
    ]
    assert found == [], "use attestation.files: a FIFO hangs, a link is followed, the error names no file"


def imported(tree: ast.AST) -> set[str]:
    """Return the names that come from the one place that opens files."""
    return {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "attestation.files"
        for alias in node.names
    }


def is_directory(tree: ast.AST, line: int) -> bool:
    """Return whether the call in this line opens a directory, which is no file."""
    return any(
        isinstance(node, ast.Call) and node.lineno == line and "O_DIRECTORY" in ast.dump(node)
        for node in ast.walk(tree)
    )


def test_certificate_authorities_reach_openssl_as_bytes_only() -> None:
    found = [
        f"{name}:{node.lineno}"
        for name, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and dotted(node.func).endswith(".load_verify_locations")
        if node.args or {keyword.arg for keyword in node.keywords} != {"cadata"}
    ]
    assert found == [], "read it with attestation.files: the errors of OpenSSL name no file"


def test_no_http_client_takes_proxies_or_trust_stores_from_the_environment() -> None:
    makers = {"Client", "AsyncClient", "HTTPTransport", "AsyncHTTPTransport", "create_ssl_context"}
    found = [
        f"{name}:{node.lineno}"
        for name, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and dotted(node.func) in {f"httpx.{maker}" for maker in makers}
        if not any(k.arg == "trust_env" and ast.unparse(k.value) == "False" for k in node.keywords)
    ]
    assert found == [], "trust_env=False: whom we trust and through whom we speak is configured"


def test_the_environment_is_read_in_one_place_that_checks_it() -> None:
    found = [
        f"{name}:{node.lineno}"
        for name, tree in sources(without=("node/environment.py", "node/simulation/"))
        for node in ast.walk(tree)
        if isinstance(node, ast.expr)
        if dotted(node) in {"os.environ", "os.getenv", "os.environb"}
    ]
    assert found == [], "add the variable to node.environment.VARIABLES, where it is checked and documented"


# Who may make code of a name, and of whose.
RUNS_CODE = (
    "node/machines/loader.py",  # the place: only machines that are allowed, and in an image only measured ones
    "node/cli/main.py",  # its own subcommands
    "attestation/__init__.py",  # the names of its own interface, as in the two below
    "enclave/__init__.py",
    "node/__init__.py",
    "node/simulation/",  # a tool for developers
)
RUNNING = {
    "eval", "exec", "compile", "__import__", "import_module", "run_module", "run_path",
    "spec_from_file_location", "load_module",
}  # fmt: skip
OBJECTS = {"pickle", "marshal", "shelve", "dill", "runpy"}


def test_no_code_and_no_object_is_made_of_what_others_wrote() -> None:
    found = [
        f"{name}:{line}: {call}"
        for name, tree in sources(without=RUNS_CODE)
        for line, call in calls(tree)
        if (call.rsplit(".")[-1] in RUNNING and not call.startswith("re.")) or call.split(".")[0] in OBJECTS
    ]
    assert found == [], "use node.machines.loader: in an image nothing runs that was not measured with it"


# What a verifier's memory takes, and the one place where each is made or called: after the last verdict.
AFTER_THE_VERDICT = {
    "AcceptedEvidence": {"attestation/tickets/tdx.py"},
    "AttestationResult": {"attestation/policy/appraise.py"},
    # What keeps it: a group's judge, and a node that judges itself.
    "remember": {"node/bonds/tickets/admission.py", "node/tcb_outlook.py"},
    # Only our own client's sets raise floors.
    "fetched": {"attestation/collateral/client/collateral_client.py", "attestation/tickets/store.py"},
}


def test_nothing_is_remembered_of_evidence_before_the_verdict_on_it() -> None:
    found = [
        f"{name}:{line}: {call}"
        for name, tree in sources()
        for line, call in calls(tree)
        if name not in AFTER_THE_VERDICT.get(call.rsplit(".")[-1], {name})
    ]
    assert found == [], "make AcceptedEvidence where nothing is left to refuse for; see attestation/DESIGN.md"
    for call, places in AFTER_THE_VERDICT.items():
        called = {name for name, tree in sources() for _, each in calls(tree) if each.rsplit(".")[-1] == call}
        assert called == places, f"the rule for {call} names places where it is not called"


def test_nothing_in_the_bonds_is_asserted_to_be_there() -> None:
    found = [
        f"{name}:{node.lineno}"
        for name, tree in sources()
        if name.startswith("node/bonds/")
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert) and "is not None" in ast.unparse(node.test)
    ]
    assert found == [], "let the stage hold it, and match on the stage: see node/bonds/DESIGN.md"


# Names that mean two things on purpose: what the API sends has the name of what it shows (openapi.json has these
# names, and clients are made from it), a message of etcd has etcd's name, and a caller in the process and one over
# HTTP meet the same three faults.
OF_THE_API = ("node/api/schemas.py", "node/etcd/messages.py", "node/etcd/auth_messages.py")
ON_BOTH_SIDES = {"AlreadyExecutedError", "NotExecutedError", "OutcomeUnknownError"}


def test_a_public_class_name_has_one_meaning() -> None:
    found: dict[str, list[str]] = {}
    for package in (*PACKAGES, "tdx-images"):
        for path in sorted((PROJECT / package).rglob("*.py")):
            name = path.relative_to(PROJECT).as_posix()
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.ClassDef)
                    and not node.name.startswith("_")
                    and name not in OF_THE_API
                ):
                    found.setdefault(node.name, []).append(name)
    twice = {name: places for name, places in found.items() if len(places) > 1}

    assert {name: places for name, places in twice.items() if name not in ON_BOTH_SIDES} == {}
    for name in ON_BOTH_SIDES:
        assert twice.get(name) == ["node/client/errors.py", "node/group/errors.py"], (
            f"{name} needs no exception"
        )


# Who checks the type and the range of an integer by hand, and why.
CHECKS_INTEGERS_ITSELF = (
    "attestation/encoding/fields.py",  # the place
    "node/raft/entries.py",  # what the log holds is judged in step with its other fields, by codes of its own
)


def test_integers_from_outside_are_checked_by_the_kit() -> None:
    """True is 1 in Python: each check that was written by hand could forget it."""
    found = [
        f"{name}:{node.lineno}"
        for name, tree in sources(without=CHECKS_INTEGERS_ITSELF)
        if name.startswith(("attestation/", "node/bonds/", "node/raft/"))
        for node in ast.walk(tree)
        if isinstance(node, ast.BoolOp)
        and isinstance(node.op, ast.Or)
        and ("is not int" in (text := ast.unparse(node)) or ", int)" in text)
        and any(len(part.ops) > 1 for part in ast.walk(node) if isinstance(part, ast.Compare))
    ]
    assert found == [], "use attestation.encoding.fields.integer"


# Who reads JSON by itself, and why.
READS_JSON = (
    "attestation/encoding/strict_json.py",  # the place
    "enclave/image/console.py",  # finds the lines of PID 1 in a console, among others that are no JSON
    "enclave/image/folder.py",  # files of an image that its user has built
    "node/cli/quote_file.py",  # names what a file is; takes nothing out of it
    "node/simulation/compiled.py",  # a tool for developers
)


def test_json_from_outside_is_read_in_one_place() -> None:
    found = [
        f"{name}:{line}: {call}"
        for name, tree in sources(without=READS_JSON)
        for line, call in calls(tree)
        if call in {"json.load", "json.loads", "json.JSONDecoder"}
    ]
    assert found == [], (
        "use attestation.encoding.strict_json: json takes repeated names, NaN and half characters"
    )


READS_TOML = (
    "attestation/encoding/toml_tables.py",  # the place
    "enclave/image/config.py",  # looks for secrets in a file that the node reads again
)


def test_toml_is_read_in_one_place() -> None:
    found = [
        name
        for name, tree in sources(without=READS_TOML)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import) and any(alias.name == "tomllib" for alias in node.names)
    ]
    assert found == [], "use attestation.encoding.toml_tables: its errors name the key"


def test_every_operation_of_the_api_has_a_call_in_the_table_that_its_tests_rest_on() -> None:
    """A body exactly where one is read, roles only where a role is needed."""
    assert sorted(CALLS) == sorted(operation.name for operation in OPERATIONS), "see tests/node/api/calls.py"
    for operation in OPERATIONS:
        made = CALLS[operation.name]
        assert (made.body is not None) == (operation.request is not None), f"{operation.name}: its body"
        assert made.opened_by == frozenset(operation.roles) - {AccessRole.ADMIN}, (
            f"{operation.name}: its roles"
        )


# gcc's spellings of C's own words: mypyc puts an underscore before the name of an attribute.
C_WORDS = ("alignof", "asm", "attribute", "complex", "const", "extension", "imag", "inline", "label", "real")
MORE_C_WORDS = ("restrict", "signed", "thread", "typeof", "volatile")


def test_no_attribute_of_the_compiled_simulator_is_a_word_of_c() -> None:
    words = {f"_{word}" for word in (*C_WORDS, *MORE_C_WORDS)}
    compiled = ("node/machines/", "node/raft/", "node/simulation/", "node/sync/", "node/system/")
    found = [
        f"{name}:{node.lineno}: {node.attr}"
        for name, tree in sources()
        if name.startswith(compiled)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in words and dotted(node.value) == "self"
    ]
    assert found == [], "choose another name: the C compiler refuses what mypyc makes of it"
