import pytest

from tests.images import harness


def pytest_collection_finish(session):
    """Say at once which programs are missing, and how to get them: not after minutes, test by test."""
    modules = {item.module for item in session.items if item.get_closest_marker("image")}
    needed = {tool for module in modules for tool in getattr(module, "TOOLS", ())}
    missing = harness.missing_tools(needed)
    if missing is not None and not session.config.option.collectonly:
        raise pytest.UsageError(missing)


@pytest.fixture(scope="session")
def locked_inputs(tmp_path_factory, request):
    """The locked inputs are in the cache."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def say(text):
        with capture.global_and_fixture_disabled():
            print(f"\n{text}")

    fresh = harness.bring_inputs(harness.builder, tmp_path_factory.mktemp("lock") / "lock.json", say)
    with pytest.MonkeyPatch.context() as environment:
        if fresh is not None:
            environment.setenv("BONDSTONE_IMAGE_LOCK", str(fresh))
        yield


def build(tmp_path_factory, profile):
    out = tmp_path_factory.mktemp(profile)
    harness.script("build.py", "build", "--profile", profile, "--out", out)
    return out


@pytest.fixture(scope="session")
def prod_image(locked_inputs, tmp_path_factory):
    """The production image of this checkout, built once."""
    return build(tmp_path_factory, "prod")


@pytest.fixture(scope="session")
def emulation_image(locked_inputs, tmp_path_factory):
    """Production with a mock TD in it: what guests without TDX run."""
    return build(tmp_path_factory, "emulation")


@pytest.fixture(scope="session")
def debug_image(locked_inputs, tmp_path_factory):
    return build(tmp_path_factory, "debug")
