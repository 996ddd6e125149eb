"""The collateral client: endorsements from Intel's PCS or a PCCS, verified, cached and kept fresh.

Only the drivers ``fetcher``, ``disk`` and ``client`` touch a network or a disk; ``requests``, ``responses``,
``retry`` and ``collateral_set`` are sans-IO.
"""
