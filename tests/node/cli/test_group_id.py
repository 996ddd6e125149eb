"""``bondstone group-id``: the ids of a group document, the document as it is hashed, and what an edit changes."""

import json

import pytest
from typer.testing import CliRunner

from node.cli.main import build_app
from node.errors import ConfigError
from node.group.identity import GroupKey
from tests.support.documents import MINIMAL, document

ANY_ADVISORY = (
    'accepted_statuses = ["UpToDate"]',
    'accepted_statuses = ["UpToDate"]\naccepted_advisories = "any"',
)


def invoke(*arguments, code: int = 0) -> str:
    result = CliRunner().invoke(build_app("group-id"), ["group-id", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "group.toml"
    path.write_text(MINIMAL)
    return path


def changed(file, old: str, new: str):
    assert old in MINIMAL
    other = file.with_name("other.toml")
    other.write_text(MINIMAL.replace(old, new))
    return other


def test_it_prints_only_the_group_id(file):
    assert invoke(file) == document().group_id.hex() + "\n"


def test_json_has_all_ids_and_the_canonical_document(file):
    answer = json.loads(invoke(file, "--json"))

    assert answer["group_id"] == document().group_id.hex()
    assert answer["mrconfigid"] == document().mrconfigid.hex()
    assert answer["network_id"] == document().network_id.hex()
    assert answer["canonical"] == document().canonical.hex()
    assert answer["document"]["machine"] == "bondstone/kv"
    assert "differences" not in answer


def test_explain_shows_what_is_hashed_and_only_that(file):
    text = invoke(file, "--explain")

    assert document().mrconfigid.hex() in text
    assert 'bootstrap = "expect 3"' in text
    assert "policy.reference_values.own_mrconfigid = true" in text
    assert "heartbeat_ms" not in text


def test_against_shows_what_an_edit_changes_and_that_it_makes_another_group(file):
    other = changed(file, '"expect 3"', '"expect 5"')
    text = invoke(file, "--against", other, code=1)

    assert 'bootstrap: "expect 3" -> "expect 5"' in text
    assert document().group_id.hex() in text


def test_against_a_document_of_the_same_meaning_reports_no_difference(file):
    other = changed(file, "schema = 1", "# another spelling\nschema = 1")

    assert "it is the same group" in invoke(file, "--against", other)


def test_what_is_not_written_is_shown_as_default_and_null_as_null(file):
    """``accepted_advisories = "any"`` is null in the document: it must not look as if it were not written."""
    other = changed(file, *ANY_ADVISORY)

    assert "policy.tcb.accepted_advisories: (default) -> null" in invoke(file, "--against", other, code=1)
    answer = json.loads(invoke(file, "--against", other, "--json", code=1))
    assert answer["differences"] == [{"key": "policy.tcb.accepted_advisories", "theirs": None}]


def test_an_empty_variant_is_a_difference_that_is_shown(file):
    other = changed(file, "[policy.ticket]", "[policy.reference_values.variants.a]\n[policy.ticket]")

    assert "policy.reference_values.variants.a: (default) -> {}" in invoke(file, "--against", other, code=1)


def test_control_characters_of_a_document_do_not_reach_the_terminal(file):
    name = '[policy.reference_values.variants."\\u001b[2J\\u202e"]\n[policy.ticket]'
    other = changed(file, "[policy.ticket]", name)
    other.write_text(other.read_text().replace('name = "n"', 'name = "\\u001b[31m"'))

    for text in (invoke(other, "--explain"), invoke(file, "--against", other, code=1)):
        assert "[2J" in text
        assert all(char.isprintable() or char == "\n" for char in text)


def test_the_public_digest_of_a_key_is_what_the_document_takes(file, tmp_path):
    key = GroupKey.generate()
    (tmp_path / "group.key").write_text(key.secret.hex() + "\n")
    digest = invoke("--key-file", tmp_path / "group.key").strip()

    assert digest == key.public_digest.hex()
    assert key.secret.hex() not in digest
    assert document(MINIMAL.replace('"derived"', f'"{digest}"')).key == key.public_digest


def test_no_document_is_a_question_of_usage():
    with pytest.raises(ConfigError, match="which group document"):
        invoke()
