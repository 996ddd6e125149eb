"""Whole groups in one process, on simulated clocks, networks and disks."""
