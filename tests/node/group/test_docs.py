"""The examples of docs/groups.md work, in their order, in one process."""

import ast
import asyncio
import inspect
import re
from pathlib import Path

import uvloop

DOCUMENT = Path(__file__).parents[3] / "docs" / "groups.md"


def test_the_examples_of_the_group_api_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len(blocks) == 8
    code = compile("\n".join(blocks), str(DOCUMENT), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert code.co_flags & inspect.CO_COROUTINE

    async def scenario() -> None:
        async with asyncio.timeout(30):
            await eval(code, {"__name__": "docs_groups"})

    uvloop.run(scenario())
