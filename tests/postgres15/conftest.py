"""What only Debian's Postgres 15 has: the real pg_cron, and plpgsql_check. Run by `make test-postgres15`."""

from tests.e2e.conftest import platform, watch

__all__ = ["platform", "watch"]
