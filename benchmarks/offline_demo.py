"""The whole demo in a network namespace without routes: nothing is fetched, nothing is called home.

    python benchmarks/offline_demo.py

Takes as long as the demo, about seven minutes on two cores. Exits with 1 if the demo needs a
network, and with 2 where no such namespace may be made (Linux's ``unshare -rn``).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time

# Fails where there is no way out, and nowhere else: a namespace with routes would prove nothing.
NO_WAY_OUT = """
import errno, socket
try:
    socket.create_connection(("192.0.2.1", 80), timeout=5)
except OSError as error:
    raise SystemExit(0 if error.errno == errno.ENETUNREACH else 3)
raise SystemExit(3)
"""
ISOLATED = ["unshare", "--map-root-user", "--net"]


def main() -> int:
    if shutil.which(ISOLATED[0]) is None:
        print("unshare is not installed")
        return 2
    probe = subprocess.run([*ISOLATED, sys.executable, "-c", NO_WAY_OUT], check=False)
    if probe.returncode:
        print("a network namespace without routes may not be made here")
        return 2
    demo = "from storm_clinic.cli.main import run; run()"
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [*ISOLATED, sys.executable, "-c", demo, "demo", f"{folder}/demo"]
        done = subprocess.run(command, check=False)
        minutes = (time.perf_counter() - start) / 60
    print(f"\nThe demo without a network: exit status {done.returncode}, {minutes:.1f} min")
    return int(done.returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
