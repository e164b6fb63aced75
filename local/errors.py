"""What the platform refuses, in one sentence for the person at the terminal."""


class PlatformError(Exception):
    """The platform could not do what was asked; the message says why and what to do."""
