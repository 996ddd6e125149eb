"""Tickets of a bond: made and judged in threads, in turns; the verdict on them, and their form in the log."""
