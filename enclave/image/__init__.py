"""Measuring a TD image ahead of time, and reading what it is given when it starts.

Everything here is pure: bytes and values in, values out. Building images and running them is the
business of ``tdx-images/``; the reasons behind the rules are in ``docs/deploy.md``.
"""
