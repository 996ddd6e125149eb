"""The collateral client trusts what its configuration names, and connects through nothing else."""

import asyncio
import ssl

import httpx
import pytest

from attestation.collateral.client.requests import INTEL_PCS, UpdateMode
from attestation.collateral.client.session import open_collateral_client, proxy_address, tls_context
from attestation.collateral.freshness import FreshnessState
from attestation.files import FileError
from attestation.x509.trust import INTEL_SGX_ROOT
from tests.node.api.raw import PEM


@pytest.mark.parametrize("key", ["tls_ca", "tls_roots"])
@pytest.mark.parametrize("content", [b"", b"no certificate", b"\xff\xfe", None])
def test_certificates_that_cannot_be_used_are_refused_with_the_files_name(tmp_path, key, content):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FileError, match=str(path)):
        tls_context(**{"tls_ca": None, "tls_roots": None, key: path})


def test_roots_that_are_named_are_trusted_instead_of_the_built_in_ones(tmp_path):
    path = tmp_path / "ca.pem"
    path.write_bytes(PEM)
    built_in = tls_context(tls_ca=None, tls_roots=None).cert_store_stats()["x509"]
    assert tls_context(tls_ca=path, tls_roots=None).cert_store_stats()["x509"] == built_in + 1
    alone = tls_context(tls_ca=None, tls_roots=path)
    assert alone.cert_store_stats()["x509"] == 1
    assert alone.verify_mode is ssl.CERT_REQUIRED
    assert alone.check_hostname


@pytest.mark.parametrize(
    "text",
    [
        "",
        "proxy:3128",
        "socks5://proxy:1080",
        "https://proxy",
        "http://",
        "http://p/x",
        "http://[::1",
        "http://p?q",
    ],
)
def test_an_address_that_is_not_a_proxys_is_refused(text):
    with pytest.raises(ValueError, match="http://HOST:PORT"):
        proxy_address(text)


def test_a_proxy_is_for_sources_that_are_asked_by_https_alone():
    async def main():
        async with open_collateral_client(
            sources=[INTEL_PCS],
            root=INTEL_SGX_ROOT,
            update=UpdateMode.STANDARD,
            cache_directory=None,
            tls_ca=None,
            seen=FreshnessState(),
            proxy="http://127.0.0.1:3128",
        ) as client:
            http = client._fetcher._http
            direct = http._transport_for_url(httpx.URL("http://127.0.0.1:8081/sgx"))
            through = http._transport_for_url(httpx.URL("https://api.trustedservices.intel.com/sgx"))
            assert direct is http._transport
            assert through is not direct

    asyncio.run(main())
