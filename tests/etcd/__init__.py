"""etcd's clients against a group, and against etcd itself: ``python -m tests.etcd``."""
