"""The relying party and the service: bonds, replication, HTTP API, command line."""
