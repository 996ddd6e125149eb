import pytest

from tests.images import harness


@pytest.fixture(scope="session")
def prod_image(tmp_path_factory):
    """The production image of this checkout, built once."""
    out = tmp_path_factory.mktemp("prod")
    harness.script("build.py", "fetch")
    harness.script("build.py", "build", "--profile", "prod", "--out", out)
    return out


@pytest.fixture(scope="session")
def debug_image(tmp_path_factory):
    out = tmp_path_factory.mktemp("debug")
    harness.script("build.py", "fetch")
    harness.script("build.py", "build", "--profile", "debug", "--out", out)
    return out
