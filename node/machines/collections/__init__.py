"""The state machine of the replicated collections, on persistent structures."""
