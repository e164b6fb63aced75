"""The platform on one machine: for work without Docker, tests and the demo."""
