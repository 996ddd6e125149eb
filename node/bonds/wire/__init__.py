"""What goes over a bond: addresses, messages, frames, and the reasons of a refusal; without I/O."""
