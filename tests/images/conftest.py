import os
import subprocess
import sys

import pytest

from tests.images import harness


@pytest.fixture(scope="session")
def locked_inputs(tmp_path_factory, request):
    """Bring the locked inputs here. Debian removes superseded packages: then, and said aloud, lock anew for this run.

    The promises that are tested (equal builds, boots as predicted) are about any lock; the committed one has to be
    refreshed and measured again by whoever releases.
    """
    fetch = [sys.executable, str(harness.SCRIPTS / "build.py"), "fetch"]
    done = subprocess.run(fetch, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode and "not on the mirror any more" in done.stderr:
        fresh = tmp_path_factory.mktemp("lock") / "lock.json"
        os.environ["BONDSTONE_IMAGE_LOCK"] = str(fresh)
        capture = request.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            print(f"\nTHE COMMITTED LOCK IS STALE, tests go on with a fresh one: {done.stderr.strip()}")
        harness.script("build.py", "lock")
        done = subprocess.run(fetch, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    yield
    os.environ.pop("BONDSTONE_IMAGE_LOCK", None)


def build(tmp_path_factory, profile):
    out = tmp_path_factory.mktemp(profile)
    harness.script("build.py", "build", "--profile", profile, "--out", out)
    return out


@pytest.fixture(scope="session")
def prod_image(locked_inputs, tmp_path_factory):
    """The production image of this checkout, built once."""
    return build(tmp_path_factory, "prod")


@pytest.fixture(scope="session")
def debug_image(locked_inputs, tmp_path_factory):
    return build(tmp_path_factory, "debug")
