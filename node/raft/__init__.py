"""Consensus: the safe Raft variant of bondstone, as a sans-IO core."""
