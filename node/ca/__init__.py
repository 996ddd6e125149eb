"""The group's own certification authority: which names it may certify, and the certificates themselves.

Its key is in the system state (``node.system.ca``), so every member that holds the group's state can issue.
``node.group_ca`` is what does that in a node's life.
"""
