"""The collateral client: endorsements from Intel's PCS or a PCCS, verified, cached and kept fresh.

Sans-IO: ``requests``, ``responses``, ``retry`` and ``collateral_set``. Drivers: ``fetcher``, ``disk``, ``client``;
they alone in ``attestation`` touch a network or a disk.
"""
