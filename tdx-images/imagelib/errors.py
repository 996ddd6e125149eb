"""What stops a build: one sentence, and what to do about it."""


class BuildError(Exception):
    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(f"{message}\nhint: {hint}")
