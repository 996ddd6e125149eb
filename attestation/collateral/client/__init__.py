"""The collateral client: endorsements from Intel's PCS or a PCCS, verified, cached and kept fresh.

The places to fetch from are ``requests.Source``. Only the drivers ``fetcher``, ``disk``, ``session`` and
``collateral_client`` touch a network or a disk; ``requests``, ``responses``, ``retry``, ``platform`` and
``assembly`` are sans-IO. ``source`` is what validators ask for a platform's set.
"""
