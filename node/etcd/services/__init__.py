"""The services of etcd's API, whatever carries them: a message and a ``Call`` in, a message out."""
