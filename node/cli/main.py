"""Entry point of ``bondstone``: finds the command, maps errors to exit codes.

Exit codes (``node.cli.exits``): 0 yes, 1 no (refused, failed), 2 usage or configuration, 3 could not decide.
"""

import importlib
import sys
from typing import Annotated, Final

import typer

from node.cli.output import prepare, say, say_lines
from node.environment import read_environment
from node.errors import ConfigError

UNDECIDED: Final = 3

# Command -> (module, help). A module is imported only for its own command, so that `node run` starts faster.
COMMANDS: Final = {
    "dev": ("node.cli.dev", "Run a local cluster of mock TDs, one process each"),
    "node": ("node.cli.node", "Run one node"),
    "status": ("node.cli.status", "Show the group, its members and their bonds"),
    "member": ("node.cli.member", "Show the group's members"),
    "kv": ("node.cli.kv", "Read and write the key-value store"),
    "token": ("node.cli.token", "Manage who may call the group: new tokens, the list, revocations"),
    "verify": ("node.cli.verify", "Check a live node's evidence and TLS key against a policy"),
    "provision": ("node.cli.provision", "Verify a waiting node, then send it the group key"),
    "audit": ("node.cli.audit", "Read and check the audit log"),
    "quote": ("node.cli.quote", "Get, show and verify TD quotes"),
    "collateral": ("node.cli.collateral", "Fetch and verify DCAP collateral, and TCB evaluation numbers"),
    "group": ("node.cli.group", "Confirm which cluster is the group, with the authority's signature"),
    "group-id": ("node.cli.group_id", "Print the GroupId that a configuration leads to"),
    "image": ("node.cli.image", "Build, measure, run and verify TD images"),
}
SINGLE: Final = {"dev", "status", "verify", "provision", "group-id"}


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        say(version("bondstone"))
        raise typer.Exit


def build_app(wanted: str | None) -> typer.Typer:
    """Return the application with the wanted command, or with all of them."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        help="A replicated, attested cluster service for Intel TDX.",
    )

    @app.callback()
    def root(
        version: Annotated[
            bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
        ] = False,
    ) -> None:
        del version

    for name in [wanted] if wanted in COMMANDS else COMMANDS:
        assert name is not None
        module_name, text = COMMANDS[name]
        module = importlib.import_module(module_name)
        if name in SINGLE:
            app.command(name, help=text)(module.command)
        else:
            app.add_typer(module.app, name=name, help=text, no_args_is_help=True)
    return app


def main() -> None:
    """Run the command line."""
    wanted = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), None)
    prepare()
    try:
        read_environment()
        build_app(wanted)()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(UNDECIDED)
    except Exception as exc:
        from node.cli.exits import (  # only now: `node run` starts faster without clients
            EXPECTED,
            exit_code_of,
        )

        if not isinstance(exc, EXPECTED):
            raise
        fail(exc, exit_code_of(exc))


def fail(exc: Exception, code: int) -> None:
    """Print the error on stderr, and end.

    Only messages about the user's own files may have several lines: in other messages a second line of
    foreign text would look like a line of this program.
    """
    if isinstance(exc, ConfigError):
        say_lines(f"error: {exc}", error=True)
    else:
        say(f"error: {exc}", error=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
