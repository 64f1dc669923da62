"""Become another program that does not outlive the process that asked for it.

Run as a script (`python -I -S child.py PARENT_PID COMMAND…`) between a parent and a server: asks the kernel for SIGKILL
on the parent's death (Linux; elsewhere only an orderly stop ends the server), then replaces itself. A script instead
of `preexec_fn`, which may deadlock where the parent has threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2)


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before prctl took hold
        sys.exit("the parent is gone")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
