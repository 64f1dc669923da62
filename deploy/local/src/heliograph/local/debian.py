"""Packages of Debian's, installed where they are absent and we may."""

import os
import shutil
import subprocess
from collections.abc import Callable

from heliograph.local.cache import cache_dir, file_lock
from heliograph.local.errors import CannotProvideError

INSTALL_TIMEOUT_S = 600

Progress = Callable[[str], None]


def install_package(package: str, there: Callable[[], bool], progress: Progress = lambda _line: None) -> None:
    """Install it unless `there()`, as root with apt-get; nothing happens elsewhere. Safe in many processes."""
    if there() or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    with file_lock(cache_dir() / "apt.lock"):
        if not there():
            progress(f"installing {package} with apt-get (once)")
            _apt_get(package, "update")
            _apt_get(package, "install", "--yes", "--no-install-recommends", package)


def _apt_get(package: str, *arguments: str) -> None:
    # RUNLEVEL=1 keeps Debian's scripts from starting a server of the system's own.
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    done = subprocess.run(
        ["apt-get", "-qq", *arguments], env=env, capture_output=True, text=True, check=False, timeout=INSTALL_TIMEOUT_S
    )
    if done.returncode != 0:
        lines = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
        raise CannotProvideError(f"apt-get {arguments[0]} failed, so {package} can't be installed:\n{lines}")
