"""A group on asyncio: its identity, its Python API, and the driver between members and bonds."""
