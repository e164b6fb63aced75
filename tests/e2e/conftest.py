"""Platforms for the tests; see platforms.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from tests.e2e.clinics import Business
from tests.e2e.platforms import Platform, temporary_platform
from tests.e2e.secrecy import Watch, watching


@pytest.fixture(scope="session", autouse=True)
def watch() -> Iterator[Watch]:
    """The session fails when a log or a refusal of it told what is secret."""
    made = Watch()
    with watching(made):
        yield made
    made.look_at_refusals()
    if made.findings:  # no assert: it would show what it compares
        pytest.fail(
            "No log and no refusal may tell these:\n" + "\n".join(sorted(made.findings)), pytrace=False
        )


@pytest.fixture(scope="session")
def platform(watch: Watch) -> Iterator[Platform]:
    """One platform for the tests that only use it."""
    with temporary_platform() as made:
        started = made.up()
        assert started.returncode == 0, started.stderr
        yield made
        watch.look(made)


@pytest.fixture
def other_platform(watch: Watch) -> Iterator[Platform]:
    """A platform of one's own, not started yet, for tests that break it."""
    with temporary_platform() as made:
        yield made
        watch.look(made)


@pytest.fixture
def platform_with(watch: Watch) -> Iterator[Callable[..., Platform]]:
    """Makes a platform with environment variables of its own."""
    with ExitStack() as stack:

        def make(**environ: str) -> Platform:
            made = stack.enter_context(temporary_platform(**environ))
            stack.callback(watch.look, made)
            return made

        yield make


@pytest.fixture
def business(platform: Platform) -> Iterator[Business]:
    with closing(Business(platform)) as made:
        made.open()
        yield made
