"""The environment variables a function reads, each declared once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import overload

from shared.errors import MissingSettingError


class Setting:
    """One variable, named like its attribute in capitals. Asking for one that is not set is an error."""

    def __init__(self, purpose: str) -> None:
        self.purpose = purpose

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name.upper()

    @overload
    def __get__(self, settings: None, owner: type) -> Setting: ...
    @overload
    def __get__(self, settings: Settings, owner: type) -> str: ...
    def __get__(self, settings: Settings | None, owner: type) -> Setting | str:
        return self if settings is None else self.read(settings)

    def read(self, settings: Settings) -> str:
        value = settings.environ.get(self.name, "").strip()
        if not value:
            raise MissingSettingError(
                f"{self.name} ({self.purpose}) is not set.",
                hint="Set it in the environment of the function: the env file of `recado up` on one machine, "
                "--set-env-vars or --set-secrets of its deployment.",
            )
        return value


@dataclass(frozen=True)
class Settings:
    """Secrets live here: the values are kept out of repr()."""

    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)

    supabase_url = Setting("address of the project's API")
    supabase_anon_key = Setting("publishable key of the project: for calls in the name of a person")
    supabase_service_role_key = Setting("secret key of the project")
    functions_secret = Setting(
        "signs the calls of our own workers; two, separated by a comma, during a rotation"
    )

    def missing(self, needed: Iterable[Setting]) -> list[str]:
        return sorted({setting.name for setting in needed if not self.environ.get(setting.name, "").strip()})
