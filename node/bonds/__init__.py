"""Bonds: mutually attested TLS 1.3 connections between the members of a group."""
