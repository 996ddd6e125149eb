"""The image's file system: what one input brings, no other input replaces or adds to."""

import importlib
import io
import sys
import zipfile

import pytest

from enclave.image.config import Profile
from tests.images import harness


@pytest.fixture(scope="module", autouse=True)
def scripts():
    sys.path.insert(0, str(harness.SCRIPTS))
    yield
    sys.path.remove(str(harness.SCRIPTS))


@pytest.fixture
def tree():
    module = importlib.import_module("imagelib.tree")
    made = module.Tree()
    made.begin("first")
    return made


@pytest.fixture
def refused():
    errors = importlib.import_module("imagelib.errors")
    return lambda match: pytest.raises(errors.BuildError, match=match)


def wheel(*names):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in names:
            archive.writestr(name, b"x = 1\n")
    return data.getvalue()


# ---- paths -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("again", ["file", "link", "hard_link"])
@pytest.mark.parametrize("before", ["file", "link", "folder"])
def test_a_path_that_another_input_has_written_is_refused(tree, refused, before, again):
    tree.file("usr/other", b"")
    {
        "file": lambda: tree.file("usr/a", b"1"),
        "link": lambda: tree.link("usr/a", "b"),
        "folder": lambda: tree.folder("usr/a"),
    }[before]()
    there = tree.nodes["usr/a"]
    tree.begin("second")
    with refused("^usr/a: first has written it, and second would write it too"):
        {
            "file": lambda: tree.file("./usr//a", b"1"),
            "link": lambda: tree.link("/usr/a", "b"),
            "hard_link": lambda: tree.hard_link("usr/a", "usr/other"),
        }[again]()
    assert tree.nodes["usr/a"] is there


@pytest.mark.parametrize("path", ["usr/a", "usr/a/b", "usr/a/b/c"])
def test_a_file_is_no_folder_for_another_input(tree, refused, path):
    tree.file("usr/a", b"1")
    tree.begin("second")
    with refused("usr/a: first has written it"):
        tree.folder(path)
    if path != "usr/a":
        with refused("usr/a: first has written it"):
            tree.file(path, b"2")


def test_inputs_share_folders_and_a_removed_path_is_free(tree):
    tree.folder("usr/lib")
    tree.file("usr/lib/a", b"1")
    tree.begin("second")
    tree.folder("usr/lib", 0o755)
    tree.file("usr/lib/b", b"2")
    tree.remove("usr/lib/a")
    tree.file("usr/lib/a", b"3")
    assert [path for path, _ in tree.files()] == ["usr/lib/a", "usr/lib/b"]


# ---- packages ----------------------------------------------------------------------------------------
def test_two_wheels_with_one_package_are_refused(tree, refused):
    module = importlib.import_module("imagelib.tree")
    module.unpack_wheel(tree, wheel("web/a.py", "web-1.dist-info/METADATA"), "opt/site")
    tree.begin("other.whl")
    module.unpack_wheel(tree, wheel("website/a.py"), "opt/site")
    with refused("opt/site/web: first has written it, and other.whl would"):
        module.unpack_wheel(tree, wheel("web/b.py"), "opt/site")


@pytest.mark.parametrize(
    "name",
    ["node/x.py", "node/__init__.py", "node.py", "enclave/x.py", "attestation/x/y.py", "guest/main.py"],
)
def test_a_locked_wheel_that_ships_a_file_of_our_packages_is_refused(tmp_path, monkeypatch, refused, name):
    lock, rootfs = importlib.import_module("imagelib.lock"), importlib.import_module("imagelib.rootfs")
    (tmp_path / "friendly.whl").write_bytes(wheel("friendly/__init__.py", name))
    monkeypatch.setattr(lock, "wheel_path", lambda locked: tmp_path / locked["file"])
    package = name.partition("/")[0]
    with refused(f"opt/bondstone/{package}: friendly.whl has written it, and this checkout would"):
        rootfs.root_tree(
            {"debs": [], "wheels": [{"file": "friendly.whl"}]},
            name="bondstone",
            profile=Profile.PROD,
            settings={},
            machines=(),
            modules=None,
        )
