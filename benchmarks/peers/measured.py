"""Runs a command and reports its seconds and its peak memory.

    python benchmarks/peers/measured.py LIMIT_GB TIMEOUT_S COMMAND...

Prints one line of JSON. It is a process of its own for each command, and a small one: the peak the
kernel counts for a child is never below what its parent held when starting it.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time

TAIL_BYTES = 2000


def main() -> None:
    limit_gb, timeout_s, *command = sys.argv[1:]
    limit = int(float(limit_gb) * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))  # which the command inherits
    with tempfile.TemporaryFile() as log:
        start = time.perf_counter()
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            status = child.wait(float(timeout_s))
        except subprocess.TimeoutExpired:
            child.kill()
            status = child.wait()
        seconds = time.perf_counter() - start
        log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
        tail = log.read().decode(errors="replace")
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_gb": usage.ru_maxrss * 1024 / 1e9,  # Linux counts KiB
        "status": status,
        "tail": tail,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
