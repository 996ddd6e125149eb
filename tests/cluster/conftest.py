import pytest

from tests.support.cluster import local_cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Three nodes, shared by the tests of a module that leave it as they found it."""
    with local_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def own_cluster(tmp_path):
    """Three nodes that a test may break."""
    with local_cluster(tmp_path / "cluster") as running:
        yield running
