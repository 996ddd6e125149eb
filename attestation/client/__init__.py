"""The collateral client: endorsements from Intel's PCS or a PCCS, verified, cached and kept fresh.

``requests``, ``responses``, ``retry`` and ``collateral_set`` are sans-IO. ``fetcher``, ``disk`` and ``client`` are
the drivers, the only modules of ``attestation`` that touch a network or a disk.
"""
