"""Child processes that never outlive us and never run a database as root."""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Identity:
    """A user a child process runs as."""

    uid: int
    gid: int

    def assume(self) -> None:
        os.setgroups([])
        os.setgid(self.gid)
        os.setuid(self.uid)


def unprivileged() -> Identity | None:
    """Who runs Postgres when we are root (which it refuses to be); None when we are not."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return Identity(nobody.pw_uid, nobody.pw_gid)


def child_setup(death: signal.Signals, identity: Identity | None = None) -> Callable[[], None]:
    """What a child runs before exec: become `identity`, and get `death` the moment its parent is gone.

    The order matters: a change of user clears the parent-death signal.
    """
    parent = os.getpid()

    def setup() -> None:
        if identity:
            identity.assume()
        _prctl(_PR_SET_PDEATHSIG, death)
        if os.getppid() != parent:  # it went between fork and prctl
            os.kill(os.getpid(), signal.SIGKILL)

    return setup


def adopt_orphans() -> None:
    """Make this process the parent of grandchildren whose own parent was killed, so that we can end them."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":  # elsewhere `recado down` and the next `up` clear what was left
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
