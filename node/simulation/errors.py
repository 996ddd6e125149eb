"""What the simulator says when something is wrong with what it simulates."""


class InvariantError(Exception):
    """An oracle was contradicted. ``oracle`` is its stable kebab-case name."""

    def __init__(self, oracle: str, detail: str) -> None:
        super().__init__(f"{oracle}: {detail}")
        self.oracle = oracle
        self.detail = detail
