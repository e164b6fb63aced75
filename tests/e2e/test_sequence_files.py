"""`recado sequences`: files in and out of a running project, as an admin and with the secret key."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.clinics import Business
from tests.e2e.platforms import RECADO, Platform

OWNER = ("--email", "dr.perez@clinica.example")
AGENT = ("--email", "recepcion@clinica.example")


@pytest.fixture
def file(business: Business, tmp_path: Path) -> Path:
    """A sequence that nobody else on the shared platform has."""
    steps = [
        {"key": "hola", "after": {}, "text": "Hola {{first_name|amigo}} 😊", "on_window_closed": "wait"},
        {"key": "adios", "after": {"hours": 24}, "text": "¿Sigues ahí?", "on_window_closed": "stop"},
    ]
    sequence = {"name": f"De archivo {business.number}", "active": False, "steps": steps}
    path = tmp_path / "sequences.json"
    path.write_text(json.dumps({"format": "recado.sequences", "version": 1, "sequences": [sequence]}))
    return path


def sequences(
    platform: Platform, *arguments: str, told: str | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RECADO, "sequences", *arguments, "--data", str(platform.data)],
        env={**os.environ, "RECADO_PASSWORD": "recado-demo"},
        input=told, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def name_in(file: Path) -> str:
    name: str = json.loads(file.read_text())["sequences"][0]["name"]
    return name


def test_an_admin_imports_and_exports(platform: Platform, file: Path, tmp_path: Path) -> None:
    name, out = name_in(file), tmp_path / "out.json"

    assert sequences(platform, "import", str(file), "--check", *OWNER).stdout.startswith(
        f"created   {name}\n"
    )
    assert sequences(platform, "import", str(file), *OWNER).stdout == f"created   {name}\n"
    exported = sequences(platform, "export", name, "--out", str(out), *OWNER)
    assert exported.returncode == 0, exported.stderr
    assert sequences(platform, "import", str(out), *OWNER).stdout == f"unchanged {name}\n"
    assert sequences(platform, "export", name, *OWNER).stdout == out.read_text()


def test_the_secret_key_acts_for_the_business_it_names(
    platform: Platform, business: Business, file: Path
) -> None:
    tenant = str(
        platform.query("select id from users where email = %s", f"{business.number}@example.com")[0][0]
    )

    imported = sequences(platform, "import", "-", "--tenant", tenant, told=file.read_text())
    assert imported.stdout == f"created   {name_in(file)}\n", imported.stderr
    exported: Any = json.loads(sequences(platform, "export", "--tenant", tenant).stdout)
    assert [sequence["name"] for sequence in exported["sequences"]] == [name_in(file)]


def test_what_is_wrong_is_said_and_nothing_is_imported(platform: Platform, file: Path) -> None:
    told = json.loads(file.read_text())
    told["sequences"][0]["steps"][1]["text"] = ""
    told["sequences"][0]["steps"][0]["delay"] = 5
    file.write_text(json.dumps(told))

    refused = sequences(platform, "import", str(file), *OWNER)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "sequences[0].steps[1].text está vacío" in refused.stderr
    assert "sequences[0].steps[0] tiene una clave desconocida: delay" in refused.stderr
    exported = sequences(platform, "export", told["sequences"][0]["name"], *OWNER)
    assert "No hay ninguna secuencia" in exported.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("import", "{file}", *AGENT), "administrador"),
        (("import", "{file}", "--email", "nobody@clinica.example"), "could not sign in"),
        (("import", "/nowhere.json", *OWNER), "cannot be read"),
        (("import", "-", *OWNER), "is not JSON"),
        (("export",), "one of the arguments --email --tenant is required"),
    ],
)
def test_who_may_not_or_asks_wrongly_is_told(
    platform: Platform, file: Path, arguments: tuple[str, ...], said: str
) -> None:
    refused = sequences(platform, *(a.format(file=file) for a in arguments), told="{")

    assert refused.returncode != 0
    assert said in refused.stderr
