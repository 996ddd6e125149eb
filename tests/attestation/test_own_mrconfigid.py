"""``mrconfigid = "own"``: the TD was started with the very document that the appraiser has loaded."""

from dataclasses import replace

import pytest

from attestation.errors import AppraisalError, MalformedError, UndecidedError
from attestation.policy import appraise as policy_module
from attestation.policy.appraise import appraise, not_checked
from attestation.policy.toml import load_policy_untrusted
from attestation.tickets.protocol import TicketRejectedError
from enclave.mock.td import TDSettings
from tests.support import evidence
from tests.support.evidence import NOW, REPORT_DATA

OWN = bytes(range(48))
OTHER = bytes(range(1, 49))
ZERO = bytes(48)
MRTD = TDSettings().mrtd.hex()
WAIVED = '["rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrseam", "mrowner", "mrownerconfig"]'


def policy(baseline: str = 'mrconfigid = "own"', waived: str = WAIVED, more: str = ""):
    return load_policy_untrusted(
        f"""
version = 1
[tcb]
accepted_statuses = ["UpToDate"]
[ticket]
max_age_seconds = 3600
max_lifetime_seconds = 3600
[reference_values]
not_checked = {waived}
[reference_values.baseline]
mrtd = "{MRTD}"
{baseline}
{more}
""".encode()
    )


def judge(rules, mr_config_id: bytes, own: bytes | None):
    verified = evidence.verified(TDSettings(mr_config_id=mr_config_id), None, NOW)
    return appraise(verified, rules, now=NOW, report_data=REPORT_DATA, own_config_id=own)


def reason(rules, mr_config_id: bytes, own: bytes | None) -> str:
    with pytest.raises((AppraisalError, UndecidedError)) as caught:
        judge(rules, mr_config_id, own)
    return caught.value.reason


def test_a_td_that_was_started_with_the_own_document_is_accepted():
    assert judge(policy(), OWN, OWN).policy.reference_values.own_mrconfigid
    assert "mrconfigid" not in not_checked(policy(), REPORT_DATA)


def test_a_td_that_was_started_with_another_document_is_refused():
    assert reason(policy(), OTHER, OWN) == "mrconfigid-differs"


def test_zero_never_equals_it_not_even_an_own_digest_of_zeros():
    assert reason(policy(), ZERO, OWN) == "mrconfigid-not-set"
    assert reason(policy(), ZERO, ZERO) == "mrconfigid-not-set"
    assert reason(policy(), ZERO, None) == "mrconfigid-not-set"


def test_without_a_document_it_is_neither_accepted_nor_refused():
    with pytest.raises(UndecidedError) as caught:
        judge(policy(), OWN, None)

    assert (caught.value.reason, caught.value.undecided) == ("mrconfigid-own-unknown", True)
    assert TicketRejectedError.of(caught.value).undecided


def test_a_contradiction_is_reported_before_the_missing_document():
    debug = evidence.verified(TDSettings(mr_config_id=OWN, td_attributes=0x1000_0001), None, NOW)
    with pytest.raises(AppraisalError) as caught:
        appraise(debug, policy(), now=NOW, report_data=REPORT_DATA)

    assert caught.value.reason == "td-debug"
    assert not caught.value.undecided


def test_only_the_named_waiver_accepts_a_platform_that_cannot_set_it():
    waived = policy(baseline="", waived=WAIVED.replace("[", '["mrconfigid", '))

    for mr_config_id in (ZERO, OWN, OTHER):
        assert judge(waived, mr_config_id, OWN)
    assert "mrconfigid" in not_checked(waived, REPORT_DATA)


def test_a_policy_without_it_reads_no_document():
    pinned = policy(baseline=f'mrconfigid = "{OTHER.hex()}"')

    assert judge(pinned, OTHER, None)
    assert reason(pinned, OWN, OWN) == "measurement-mismatch"


def test_beside_variants_it_holds_for_all_of_them():
    variants = policy(
        more=f'[reference_values.variants.a]\nrtmr3 = "{ZERO.hex()}"', waived=WAIVED.replace(' "rtmr3",', "")
    )

    assert judge(variants, OWN, OWN).variant == "a"
    assert reason(variants, OTHER, OWN) == "mrconfigid-differs"


@pytest.mark.parametrize(
    ("baseline", "more"),
    [
        (f'mrconfigid = ["own", "{OTHER.hex()}"]', ""),
        ('mrconfigid = ["own", "own"]', ""),
        ('mrconfigid = "OWN"', ""),
        ('mrconfigid = "own"\nrtmr3 = "own"', ""),
        ('mrconfigid = "own"', '[reference_values.variants.a]\nmrconfigid = "own"'),
    ],
)
def test_it_stands_alone_and_for_mrconfigid_only(baseline, more):
    with pytest.raises(MalformedError):
        policy(baseline=baseline, more=more)


def test_it_is_not_waived_and_pinned_at_once():
    with pytest.raises(MalformedError, match="waives mrconfigid"):
        policy(waived=WAIVED.replace("[", '["mrconfigid", '))


def test_a_list_of_one_is_the_same_policy():
    assert policy('mrconfigid = ["own"]').signature == policy().signature
    without = replace(policy().reference_values, own_mrconfigid=False)
    assert replace(policy(), reference_values=without).signature != policy().signature


def test_the_check_is_what_refuses(monkeypatch):
    """With the check removed, a TD that was started with another document is accepted."""
    monkeypatch.setattr(policy_module, "_own_config_findings", lambda *_: iter(()))

    assert judge(policy(), OTHER, OWN)
