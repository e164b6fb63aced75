"""The same platform on Debian's Postgres 15, where pg_cron is the real one."""

from __future__ import annotations

import psycopg
import pytest

from local import postgres
from tests.conftest import Server
from tests.e2e.platforms import Platform, eventually


def test_a_job_of_the_real_pg_cron_reaches_a_function(platform: Platform) -> None:
    assert postgres.installation().has_pg_cron
    platform.query(
        """select cron.schedule('say hello', '* * * * *', $$select private.invoke('hello/echo')$$)"""
    )

    # other jobs call theirs too; a worker that is woken takes longer to answer than anybody waits
    answered = eventually(
        lambda: platform.query("select 1 from net._http_response where status_code = 200"), seconds=75
    )

    assert answered
    assert platform.query("select status from cron.job_run_details limit 1") == [("succeeded",)]


def test_only_its_functions_change_jobs(server: Server) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("select cron.schedule('probe', '0 0 1 1 *', 'select 1')")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("delete from cron.job")
        connection.execute("select cron.unschedule('probe')")
