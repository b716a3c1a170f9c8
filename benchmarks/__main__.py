"""Every measurement on this machine, on its GPU if it has one, then the tables of docs/performance.md.

    python -m benchmarks

About ten minutes on two quiet CPU cores; what else runs beside it spoils the times.
"""

from __future__ import annotations

import subprocess
import sys

NAMES = ("bench_accuracy", "bench_memory", "bench_routing", "bench_overhead", "report")


def main() -> int:
    # Each in a process of its own: what one leaves in memory or in a compiler's cache must not help or harm another.
    codes = [subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode for name in NAMES]
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
