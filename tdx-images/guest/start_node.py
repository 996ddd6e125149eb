"""Starts the node in an isolated interpreter: all of its code comes from the image."""

import sys

sys.path[:0] = ["/opt/bondstone"]

from guest.node import main  # noqa: E402

sys.exit(main())
