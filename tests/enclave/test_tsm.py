"""Quotes from configfs-tsm: one suite over the fake tree as a library and as a mounted file system."""

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from attestation.quote.codec import QUOTE_BYTES_MAX, parse_quote_untrusted
from enclave.attester import Attester
from enclave.errors import NotATrustDomainError, QuoteUnavailableError
from enclave.tsm import BACKOFF_S, HOST_ATTEMPTS_MAX, NAME_PREFIX, ConfigfsTree, TsmAttester
from tests.support.tickets import AUTHORITY
from tests.support.tsm import FakeTree, FakeTsm, fuse_or_skip, mounted

REPORT_DATA = bytes(range(64))
TD = AUTHORITY.create_td()


@dataclass
class World:
    """The fake kernel, an attester on it, and the seconds that the attester has slept."""

    tsm: FakeTsm
    attester: TsmAttester
    slept: list[float] = field(default_factory=list)


@pytest.fixture(params=["library", "fuse"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    tsm = FakeTsm(quote=TD.quote)
    slept: list[float] = []
    if request.param == "library":
        yield World(tsm, TsmAttester(tmp_path, tree=FakeTree(tsm), sleep=slept.append), slept)
        return
    fuse_or_skip()
    with mounted(tsm, tmp_path) as root:
        yield World(tsm, TsmAttester(root, sleep=slept.append), slept)


def operations(world: World) -> list[str]:
    return [call[0] if call[0] in {"mkdir", "rmdir"} else f"{call[0]} {call[1]}" for call in world.tsm.calls]


def test_a_quote_carries_the_report_data_that_was_asked_for(world: World) -> None:
    quote = world.attester.quote(REPORT_DATA)

    assert parse_quote_untrusted(quote).body.report_data == REPORT_DATA
    assert not world.slept


def test_the_protocol_is_followed_in_order_and_the_directory_removed(world: World) -> None:
    world.attester.quote(REPORT_DATA)

    assert operations(world) == [
        "mkdir",
        "read provider",
        "read generation",
        "write inblob",
        "read generation",
        "read outblob",
        "read generation",
        "rmdir",
    ]
    assert not world.tsm.reports


def test_every_request_has_a_directory_of_its_own(world: World) -> None:
    for _ in range(3):
        world.attester.quote(REPORT_DATA)
    names = {call[1] for call in world.tsm.calls if call[0] == "mkdir"}

    assert len(names) == 3
    assert all(name.startswith(f"{NAME_PREFIX}{os.getpid()}-") for name in names)


def test_it_is_an_attester_of_a_real_td(world: World) -> None:
    attester: Attester = world.attester

    assert (attester.mock, attester.provider) == (False, "tdx_guest")


@pytest.mark.parametrize("size", [0, 63, 65])
def test_report_data_of_another_length_is_our_own_mistake(world: World, size: int) -> None:
    with pytest.raises(ValueError, match="64"):
        world.attester.quote(bytes(size))

    assert not world.tsm.calls


# ---- no TD ------------------------------------------------------------------------------------------


def test_a_machine_without_a_provider_is_no_td(world: World) -> None:
    world.tsm.provider = None
    for ask in (world.attester.probe, lambda: world.attester.quote(REPORT_DATA)):
        with pytest.raises(NotATrustDomainError, match="modprobe tdx_guest"):
            ask()

    assert not world.slept


def test_a_kernel_without_configfs_tsm_is_no_td(tmp_path: Path) -> None:
    attester = TsmAttester(tmp_path / "report")
    for ask in (attester.probe, lambda: attester.quote(REPORT_DATA)):
        with pytest.raises(NotATrustDomainError, match=r"6\.7"):
            ask()


def test_another_vendors_provider_is_refused_by_name(world: World) -> None:
    world.tsm.provider = "sev_guest"
    for ask in (world.attester.probe, lambda: world.attester.quote(REPORT_DATA)):
        with pytest.raises(NotATrustDomainError, match="sev_guest"):
            ask()

    assert "write inblob" not in operations(world)
    assert not world.tsm.reports


def test_a_provider_that_goes_away_ends_it(world: World) -> None:
    world.tsm.outblob_errors = [errno.ENXIO]
    with pytest.raises(NotATrustDomainError):
        world.attester.quote(REPORT_DATA)

    assert not world.tsm.reports


def test_a_probe_of_a_td_succeeds_without_asking_for_a_quote(world: World) -> None:
    world.attester.probe()

    assert operations(world) == ["mkdir", "read provider", "rmdir"]


def test_there_is_no_way_from_here_to_the_mock() -> None:
    """What a node that is configured for TDX cannot reach, it cannot fall back to."""
    import enclave.tsm

    assert "mock" not in "".join(name for name in vars(enclave.tsm) if not name.startswith("__"))
    assert "enclave.mock" not in Path(enclave.tsm.__file__).read_text(encoding="utf-8")


# ---- contention and failures ------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.EBUSY, errno.EAGAIN])
def test_a_request_in_flight_is_waited_for(world: World, code: int) -> None:
    world.tsm.outblob_errors = [code] * 3

    assert world.attester.quote(REPORT_DATA)
    assert world.slept == list(BACKOFF_S[:3])


def test_waiting_for_a_request_in_flight_is_bounded(world: World) -> None:
    world.tsm.outblob_errors = [errno.EBUSY] * 100
    with pytest.raises(QuoteUnavailableError, match="in flight"):
        world.attester.quote(REPORT_DATA)

    assert world.slept == list(BACKOFF_S)
    # Longer than the 30 seconds that an abandoned request keeps the buffer.
    assert sum(world.slept) > 30
    assert not world.tsm.reports


def test_a_busy_write_is_retried(world: World) -> None:
    world.tsm.write_errors = [errno.EBUSY]

    assert world.attester.quote(REPORT_DATA)
    assert len(world.slept) == 1


@pytest.mark.parametrize(("code", "text"), [(errno.ETIMEDOUT, "30 seconds"), (errno.EIO, "host refused")])
def test_a_host_that_fails_is_asked_a_few_times_only(world: World, code: int, text: str) -> None:
    world.tsm.outblob_errors = [code] * 100
    with pytest.raises(QuoteUnavailableError, match=text):
        world.attester.quote(REPORT_DATA)

    assert len(world.slept) == HOST_ATTEMPTS_MAX - 1
    world.tsm.outblob_errors = [code] * (HOST_ATTEMPTS_MAX - 1)
    assert world.attester.quote(REPORT_DATA)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EFBIG, errno.EACCES])
def test_what_a_retry_cannot_help_is_not_retried(world: World, code: int) -> None:
    world.tsm.outblob_errors = [code]
    with pytest.raises(QuoteUnavailableError, match=errno.errorcode[code]):
        world.attester.quote(REPORT_DATA)

    assert not world.slept


def test_a_user_without_rights_gets_an_error_that_names_the_group_with_rights(world: World) -> None:
    world.tsm.mkdir_errors = [errno.EACCES]
    with pytest.raises(QuoteUnavailableError, match="root"):
        world.attester.quote(REPORT_DATA)


def test_a_name_that_is_taken_is_replaced(world: World) -> None:
    world.tsm.mkdir_errors = [errno.EEXIST]

    assert world.attester.quote(REPORT_DATA)


# ---- reports that are not ours ----------------------------------------------------------------------


def test_a_write_that_was_lost_at_close_is_noticed_and_retried(world: World) -> None:
    """configfs drops what a binary attribute's store returns: only the generation shows it."""
    world.tsm.lost_writes = 1

    quote = world.attester.quote(REPORT_DATA)

    assert parse_quote_untrusted(quote).body.report_data == REPORT_DATA


def test_a_report_that_another_writer_got_in_between_is_dropped(world: World) -> None:
    def intrude(name: str) -> None:
        world.tsm.before_read = None
        world.tsm.reports[name].inblob = b"\xee" * 64
        world.tsm.reports[name].write_generation += 1

    world.tsm.before_read = intrude
    quote = world.attester.quote(REPORT_DATA)

    assert parse_quote_untrusted(quote).body.report_data == REPORT_DATA
    assert len(world.slept) == 1


def test_a_writer_that_always_interferes_causes_an_error_and_no_quote(world: World) -> None:
    def intrude(name: str) -> None:
        world.tsm.reports[name].write_generation += 1

    world.tsm.before_read = intrude
    with pytest.raises(QuoteUnavailableError, match="generation"):
        world.attester.quote(REPORT_DATA)


def test_a_quote_over_other_report_data_is_refused(world: World) -> None:
    world.tsm.quote = lambda _report_data: TD.quote(b"\xee" * 64)
    with pytest.raises(QuoteUnavailableError, match="another REPORTDATA"):
        world.attester.quote(REPORT_DATA)


def test_a_directory_that_was_removed_is_created_again(world: World) -> None:
    def remove(name: str) -> None:
        world.tsm.before_read = None
        del world.tsm.reports[name]
        raise OSError(errno.ENOENT, "gone")

    world.tsm.before_read = remove

    assert world.attester.quote(REPORT_DATA)


def sgx_quote(quote: bytes) -> bytes:
    """The quote of a TD, cut and relabelled into that of an enclave."""
    return quote[:4] + bytes(4) + quote[8 : 48 + 384] + quote[48 + 584 :]


@pytest.mark.parametrize(
    ("made", "text"),
    [
        pytest.param(lambda _: b"", "empty", id="empty"),
        pytest.param(lambda _: b"\x04\x00 no quote", "cannot be read", id="junk"),
        pytest.param(lambda _: b"\xd2\x84" + bytes(9000), "cannot be read", id="dice"),
        pytest.param(lambda _: bytes(200_000), "more than", id="too-large"),
        pytest.param(lambda data: sgx_quote(TD.quote(data)), "SGX", id="sgx"),
        pytest.param(lambda data: TD.quote(data)[:-1], "cannot be read", id="truncated"),
    ],
)
def test_what_the_host_delivers_is_not_believed(
    world: World, made: Callable[[bytes], bytes], text: str
) -> None:
    world.tsm.quote = made
    with pytest.raises(QuoteUnavailableError, match=text):
        world.attester.quote(REPORT_DATA)

    assert not world.tsm.reports


def test_a_quote_in_the_largest_buffer_is_taken_with_its_padding(world: World) -> None:
    world.tsm.quote = lambda report_data: TD.quote(report_data).ljust(QUOTE_BYTES_MAX, b"\0")

    assert len(world.attester.quote(REPORT_DATA)) == QUOTE_BYTES_MAX


# ---- cleaning up ------------------------------------------------------------------------------------


def test_a_directory_that_will_not_go_does_not_cost_the_quote(world: World) -> None:
    world.tsm.rmdir_errors = [errno.EBUSY]

    assert world.attester.quote(REPORT_DATA)
    assert len(world.tsm.reports) == 1


def test_a_probe_removes_only_what_dead_processes_left(world: World) -> None:
    dead = f"{NAME_PREFIX}4194305-aa"  # beyond the kernel's largest process id
    mine = f"{NAME_PREFIX}{os.getpid()}-aa"
    foreign = "somebody-else"
    odd = f"{NAME_PREFIX}x-aa"
    for name in (dead, mine, foreign, odd):
        world.tsm.make(name)
    world.attester.probe()

    assert set(world.tsm.reports) == {mine, foreign, odd}


def test_many_threads_get_their_own_quotes(world: World) -> None:
    results: dict[int, bytes] = {}

    def ask(number: int) -> None:
        results[number] = world.attester.quote(bytes([number]) * 64)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for number in range(8):
        assert parse_quote_untrusted(results[number]).body.report_data == bytes([number]) * 64


def test_an_interrupted_request_is_repeated(world: World) -> None:
    """A signal during the read gives EINTR once; Python repeats the call (PEP 475), or we do."""
    world.tsm.outblob_errors = [errno.EINTR]
    previous = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        assert world.attester.quote(REPORT_DATA)
    finally:
        signal.signal(signal.SIGUSR1, previous)


# ---- the kernel's own tree, as far as any file system shows it ----------------------------------------


def test_a_short_write_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "inblob").touch()
    monkeypatch.setattr(os, "write", lambda _fd, data: len(data) - 1)

    with pytest.raises(OSError, match="63 of 64"):
        ConfigfsTree(tmp_path).write("r", "inblob", REPORT_DATA)


def test_reading_stops_at_the_limit(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "outblob").write_bytes(bytes(100))

    assert len(ConfigfsTree(tmp_path).read("r", "outblob", bytes_max=70)) == 70


# ---- event log --------------------------------------------------------------------------------------


def test_the_event_log_is_read_whole_or_refused(tmp_path: Path) -> None:
    log = tmp_path / "CCEL"
    attester = TsmAttester(tmp_path, event_log=log)

    assert attester.event_log() is None
    log.write_bytes(b"log")
    assert attester.event_log() == b"log"
    log.write_bytes(bytes(1024 * 1024))
    assert attester.event_log() == bytes(1024 * 1024)
    log.write_bytes(bytes(1024 * 1024 + 1))
    with pytest.raises(QuoteUnavailableError, match="larger than"):
        attester.event_log()
    with pytest.raises(QuoteUnavailableError, match="it is a directory"):
        TsmAttester(tmp_path, event_log=tmp_path).event_log()


def test_a_generation_that_is_no_number_is_refused(tmp_path: Path) -> None:
    tsm = FakeTsm(quote=TD.quote)
    tree = FakeTree(tsm)

    class Odd(FakeTree):
        def read(self, name: str, attribute: str, *, bytes_max: int) -> bytes:
            return b"many\n" if attribute == "generation" else tree.read(name, attribute, bytes_max=bytes_max)

    with pytest.raises(QuoteUnavailableError, match="not a number"):
        TsmAttester(tmp_path, tree=Odd(tsm)).quote(REPORT_DATA)
