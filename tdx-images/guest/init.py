#!/usr/bin/python3.13 -ISB
import sys

sys.path[:0] = ["/opt/bondstone"]

from guest.main import main  # noqa: E402

main()
