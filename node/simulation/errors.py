"""The error that the simulator raises when the simulated group breaks a rule."""


class InvariantError(Exception):
    """An oracle was contradicted. ``oracle`` is its stable kebab-case name."""

    def __init__(self, oracle: str, detail: str) -> None:
        super().__init__(f"{oracle}: {detail}")
        self.oracle = oracle
        self.detail = detail
