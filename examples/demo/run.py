"""The demo: starts the two demo devices, deploys `karez.yaml` beside this file with the ordinary command, and ends the devices.

python examples/demo/run.py [--for 20s]
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
DEVICES = {"opcua_server.py": ("KAREZ_DEMO_OPCUA_PORT", 4840), "modbus_server.py": ("KAREZ_DEMO_MODBUS_PORT", 5020)}


def free_port(wanted: int) -> int:
    """The port that is wanted, or another one if somebody has it."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            try:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
            except OSError:
                continue
    raise OSError("no free port")


def main() -> int:
    """Run it; the exit code is that of `karez deploy`."""
    environment = dict(os.environ)
    devices: list[subprocess.Popen[str]] = []
    try:
        for script, (variable, wanted) in DEVICES.items():
            port = free_port(wanted)
            environment[variable] = str(port)
            # a session of their own: Ctrl-C is for karez, which then drains while the devices still answer
            command = [sys.executable, str(HERE / script), "--port", str(port)]
            devices.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True))
        for device in devices:
            assert device.stdout is not None
            line = device.stdout.readline()
            if not line:
                print("demo: a device did not start", file=sys.stderr)
                return 1
            print(f"demo: {line.strip()}", flush=True)
        command = [sys.executable, "-m", "karez", "deploy", "-c", str(HERE / "karez.yaml"), "--live", *sys.argv[1:]]
        karez = subprocess.Popen(command, cwd=HERE.parent.parent, env=environment)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda received, _: karez.send_signal(received) if received == signal.SIGTERM else None)
        return karez.wait()
    finally:
        for device in devices:
            device.terminate()
        for device in devices:
            device.wait(10)


if __name__ == "__main__":
    sys.exit(main())
