"""Measurements, one command each, JSON on stdout. Never run as tests: times are facts, not promises."""
