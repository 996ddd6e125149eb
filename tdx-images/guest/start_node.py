"""Starts the node in an isolated interpreter: its code comes out of the image, and from nowhere else."""

import sys

sys.path[:0] = ["/opt/bondstone"]

from guest.node import main  # noqa: E402

sys.exit(main())
