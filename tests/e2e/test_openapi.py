"""Whatever anybody sends to a running function is answered as docs/openapi.yaml says, and never with a 500.

RECADO_FUZZ=long looks for minutes, in other places each time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from supabase import create_client

from tests.e2e.platforms import Platform

ROOT = Path(__file__).parents[2]
LONG = os.environ.get("RECADO_FUZZ") == "long"
# what is signed is accepted whatever it holds, and only our own tests know how to sign wrongly
UNFIT = "ignored_auth,missing_required_header,negative_data_rejection,positive_data_acceptance"
QUICK = ["--phases", "fuzzing", "--max-examples", "6", "--seed", "7", "--max-time", "15"]
THOROUGH = ["--phases", "coverage,fuzzing", "--max-examples", "150"]


def known(platform: Platform) -> dict[str, str]:
    """What the hooks sign with."""
    env = platform.env
    client = create_client(env["SUPABASE_URL"], env["SUPABASE_ANON_KEY"])
    session = client.auth.sign_in_with_password(
        {"email": "dr.perez@clinica.example", "password": "recado-demo"}
    ).session
    assert session
    secrets = {}
    for provider, kind in (("whapi", "webhook_secret"), ("twilio", "access_token")):
        ((number_id, secret),) = platform.query(
            "select n.id::text, v.decrypted_secret from public.whatsapp_numbers n"
            " join public.channel_secrets s"
            " on s.tenant_id = n.tenant_id and s.number_id = n.id and s.kind = %s"
            " join vault.decrypted_secrets v on v.id = s.secret_id where n.provider = %s",
            kind,
            provider,
        )
        secrets |= {provider: number_id, f"{provider}_{kind.rpartition('_')[2]}": secret}
    return secrets | {
        "jwt": session.access_token,
        "meta_secret": env["META_APP_SECRET"].split(",")[0],
        "functions_secret": env["FUNCTIONS_SECRET"].split(",")[0],
        "webhook_url": env["FUNCTIONS_URL"] + "/webhook",
    }


def test_no_request_is_answered_otherwise_than_described(platform_with: Callable[..., Platform]) -> None:
    platform = platform_with(DRAIN_IDLE_SECONDS="0.05", WEBHOOK_UNSIGNED_BURST="1000000")
    assert platform.up().returncode == 0
    program = [str(Path(sys.executable).with_name("schemathesis")), "run", "docs/openapi.yaml"]
    options = ["--url", platform.env["FUNCTIONS_URL"], "--exclude-checks", UNFIT, "--workers", "4"]
    options += ["--exclude-operation-id", "health"]  # the functions in its path are known to the gateway
    output = ["--warnings", "off", "--no-color", "--continue-on-failure", "--request-timeout", "60"]

    done = subprocess.run(
        [*program, *options, *output, *(THOROUGH if LONG else QUICK)],
        cwd=ROOT,
        env={
            **os.environ,
            "RECADO_OPENAPI": json.dumps(known(platform)),
            "SCHEMATHESIS_HOOKS": "tests.e2e.openapi_hooks",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )

    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
