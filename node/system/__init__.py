"""The system state: what the group itself replicates beside the user's machine, such as the access list."""
