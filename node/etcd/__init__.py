"""etcd's API, version 3: the same services, messages and refusals, over the group's key-value machine."""
