"""The error that stops a build: one sentence, and the remedy."""


class BuildError(Exception):
    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(f"{message}\nhint: {hint}")
