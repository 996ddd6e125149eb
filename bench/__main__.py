"""List the measurements, each with its command.

    python -m bench

Modules that others start, and that measure nothing by themselves, are left out.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

_COMMAND = re.compile(r"^ *(python -m bench\.\w+.*)$", re.MULTILINE)


def measurements() -> Iterator[tuple[str, str]]:
    """Yield what each module measures, in a sentence, and its command."""
    for path in sorted(Path(__file__).parent.glob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        if command := _COMMAND.search(text):
            yield text.partition("\n")[0], command[1]


if __name__ == "__main__":
    for what, command in measurements():
        print(f"{command}\n    {what}")
