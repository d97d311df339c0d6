"""
Time small products under different spin counts of OpenMP's threads, alone and beside one busy process.

    .venv/bin/python benchmarks/spinning.py            # about three minutes

Each value is a process of its own, because OpenMP reads the variable once; the values take turns, three rounds.
"""

import os
import statistics
import subprocess
import sys
import time

VALUES = ("300000", "50000", "10000", "4000", "2000", "300")
ROUNDS = 3
PRODUCTS, STEPS = 210, 15


def steps() -> None:
    """Print the seconds of each of some steps of small products, the size of a decode step's."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    x = torch.randn(1, 576)
    weights = [torch.randn(1536, 576) for _ in range(PRODUCTS)]
    for _ in range(STEPS):
        begun = time.perf_counter()
        for weight in weights:
            torch.nn.functional.linear(x, weight)
        print(time.perf_counter() - begun)


def milliseconds(value: str) -> float:
    environment = os.environ | {"GOMP_SPINCOUNT": value}
    done = subprocess.run(
        [sys.executable, __file__, "steps"], env=environment, capture_output=True, text=True, check=True
    )
    return 1000 * statistics.median(float(line) for line in done.stdout.split()[3:])


def table(title: str) -> None:
    found: dict[str, list[float]] = {value: [] for value in VALUES}
    for _ in range(ROUNDS):
        for value in VALUES:
            found[value].append(milliseconds(value))
    print(title)
    for value, times in found.items():
        print(f"  {value:>7} rounds  median {statistics.median(times):7.1f} ms   all {[round(t) for t in times]}")


def main() -> None:
    if sys.argv[1:] == ["steps"]:
        steps()
        return
    table("idle machine")
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            table("beside one busy process")
        finally:
            busy.kill()


if __name__ == "__main__":
    main()
