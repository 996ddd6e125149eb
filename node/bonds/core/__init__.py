"""What bonds decide, without I/O: the handshake, the admitted bond, where to dial, what to send first."""
