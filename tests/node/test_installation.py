"""Two distributions with one package name: pip merges them without a warning."""

from importlib.metadata import distributions

import pytest

from node.errors import ConfigError
from node.installation import require_own_packages


def installed(folder, name, *files):
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "RECORD").write_text("".join(f"{file},sha256=x,1\n" for file in files))
    return distributions(path=[str(folder)])


@pytest.mark.parametrize("package", ["attestation", "enclave", "node"])
@pytest.mark.parametrize("first", [True, False])
def test_another_distribution_in_one_of_our_packages_is_named(tmp_path, package, first):
    files = ["other/__init__.py", f"{package}/__init__.py"]
    found = installed(tmp_path, "stranger", *(reversed(files) if first else files))

    with pytest.raises(ConfigError, match=f"stranger has files in {package}.*environment of its own"):
        require_own_packages(found)


def test_our_own_distribution_and_packages_with_longer_names_are_no_strangers(tmp_path):
    require_own_packages(installed(tmp_path / "own", "bondstone", "node/__init__.py", "enclave/tsm.py"))
    require_own_packages(
        installed(tmp_path / "other", "nodeenv", "nodeenv.py", "node_env/a.py", "x/node/a.py")
    )


def test_the_environment_of_these_tests_is_its_own():
    require_own_packages()
