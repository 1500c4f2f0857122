"""How long the thread that feeds the device waits for the interpreter beside two busy threads, by switch interval.

    python tests/bench/bench_switch.py

Each interval in a process of its own; 200 waits of 0.2 ms. The baseline is Python's own interval, 5 ms.
"""

import os
import statistics
import subprocess
import sys
import threading
import time

INTERVALS_S = (0.005, 0.001, 0.0002)


def measure(interval_s: float) -> float:
    """Median wait in ms."""
    sys.setswitchinterval(interval_s)
    for _ in range(2):
        threading.Thread(target=_busy, daemon=True).start()
    waits = []
    for _ in range(200):
        started = time.perf_counter()
        time.sleep(0.0002)
        waits.append(time.perf_counter() - started)
    return statistics.median(waits) * 1e3


def _busy() -> None:
    total = 0
    while True:
        for number in range(1000):
            total += number * number


def main() -> None:
    if len(sys.argv) > 1:
        print(measure(float(sys.argv[1])), flush=True)
        os._exit(0)  # the busy threads never end
    waits = {
        interval: float(subprocess.check_output([sys.executable, __file__, str(interval)])) for interval in INTERVALS_S
    }
    for interval, wait in waits.items():
        print(f"{interval * 1e3:g} ms: a wait of 0.2 ms takes {wait:.2f} ms ({waits[0.005] / wait:.1f}x shorter)")


if __name__ == "__main__":
    main()
