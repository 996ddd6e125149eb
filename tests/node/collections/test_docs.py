"""The examples of docs/collections.md work, in their order, in one process."""

import ast
import asyncio
import inspect
import re
from pathlib import Path

import uvloop

from node.collections import __all__ as names
from node.collections.base import CollectionWhen

DOCUMENT = Path(__file__).parents[3] / "docs" / "collections.md"
CLOSE = "await second.close()\nawait first.close()\n"


def test_the_examples_of_the_collections_run() -> None:
    text = DOCUMENT.read_text()
    assert len(re.findall(r"```python\n", text)) == 10
    # Every line stays where it is, so that a failure names the line of the page.
    parts = re.split(r"```(?:python)?\n", text)
    source = "\n".join(part if number % 2 else "\n" * part.count("\n") for number, part in enumerate(parts))
    source += CLOSE
    code = compile(source, str(DOCUMENT), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert code.co_flags & inspect.CO_COROUTINE

    async def scenario() -> None:
        async with asyncio.timeout(30):
            await eval(code, {"__name__": "docs_collections"})

    uvloop.run(scenario())


def test_every_kind_has_a_chapter_and_every_condition_a_row() -> None:
    text = DOCUMENT.read_text()
    chapters = set(re.findall(r"^## (.*)$", text, re.MULTILINE))
    table = text.split("| `when().` |")[1].split("\n\n")[0]

    assert {"Map", "Vec", "Set", "Cell", "Once", "Priority queue"} <= chapters
    assert {"Map", "Vec", "Set", "Cell", "Once", "PriorityQueue"} <= set(names)
    conditions = {name for name in vars(CollectionWhen) if not name.startswith("_")}
    assert set(re.findall(r"`(\w+)\(", table)) == conditions
