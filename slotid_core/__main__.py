"""`python -m slotid_core`, the same as `slotid`."""

from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
