"""Platforms for the tests; see platforms.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from tests.e2e.clinics import Business
from tests.e2e.platforms import Platform, temporary_platform


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    """One platform for the tests that only use it."""
    with temporary_platform() as made:
        started = made.up()
        assert started.returncode == 0, started.stderr
        yield made


@pytest.fixture
def other_platform() -> Iterator[Platform]:
    """A platform of one's own, not started yet, for tests that break it."""
    with temporary_platform() as made:
        yield made


@pytest.fixture
def platform_with() -> Iterator[Callable[..., Platform]]:
    """Makes a platform with environment variables of its own."""
    with ExitStack() as stack:
        yield lambda **environ: stack.enter_context(temporary_platform(**environ))


@pytest.fixture
def business(platform: Platform) -> Iterator[Business]:
    with closing(Business(platform)) as made:
        made.open()
        yield made
