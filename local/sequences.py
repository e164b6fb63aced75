"""`recado sequences`: files of sequences, in and out of this machine's platform or any other project."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from local.errors import PlatformError
from local.layout import ROOT
from local.sequence_files import MODES, Library, Refused
from shared.errors import RecadoError
from shared.settings import Settings


def add(commands: Any) -> None:
    """The command's own arguments."""
    help_text = "Export sequences to a file, or import one."
    parser = commands.add_parser("sequences", help=help_text, description=help_text)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    out = _verb(verbs, "export", _export, "Write all sequences, or those named, as JSON.")
    out.add_argument("names", nargs="*", metavar="NAME")
    out.add_argument("--out", default="-", metavar="FILE", help="where to (standard output)")
    into = _verb(verbs, "import", _import, "Take over a file: all of it, or nothing.")
    into.add_argument("file", metavar="FILE", help="- is standard input")
    into.add_argument(
        "--mode",
        choices=[mode for mode in MODES if mode != "check"],
        default="update",
        help="sequences of the same name are brought up to date (update), refused (create); "
        "replace also deletes those that are not in the file",
    )
    into.add_argument("--check", action="store_true", help="only say what would happen")


def _verb(verbs: Any, name: str, run: object, help_text: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = verbs.add_parser(name, help=help_text, description=help_text)
    made.set_defaults(run=run)
    who = made.add_mutually_exclusive_group(required=True)
    who.add_argument("--email", metavar="E", help="sign in as an admin; RECADO_PASSWORD, or it is asked for")
    who.add_argument("--tenant", metavar="ID", help="with the secret key, for the business with this id")
    where = made.add_mutually_exclusive_group()
    where.add_argument("--data", metavar="DIR", help="data directory of a platform (.recado)")
    where.add_argument("--env-file", metavar="F", help="dotenv file with the URL and keys of any project")
    return made


def _export(options: argparse.Namespace) -> None:
    text = json.dumps(_told(lambda: _library(options).export(options.names)), ensure_ascii=False, indent=2)
    if options.out == "-":
        print(text)
    else:
        _write(options.out, text + "\n")


def _import(options: argparse.Namespace) -> None:
    file = _read(options.file)
    mode = "check" if options.check else options.mode
    answer = _told(lambda: _library(options).take(file, mode))
    for sequence in answer["sequences"]:
        print(f"{sequence['outcome']:<10}{sequence['name']}")
    for name in answer["deleted"]:
        print(f"{'deleted':<10}{name}")
    if options.check:
        print("This was only a check: nothing was changed.")


def _told(call: Any) -> Any:
    """What the project answers; a refusal in words, with each fault of a file on its line."""
    try:
        return call()
    except Refused as error:
        raise PlatformError(
            "\n".join([error.message, *_faults(error), *filter(None, [error.hint])])
        ) from error
    except RecadoError as error:
        raise PlatformError(" ".join(filter(None, [error.message, error.hint]))) from error


def _faults(error: Refused) -> list[str]:
    return [f"  {path} {fault}" for path, fault in error.faults] if len(error.faults) > 1 else []


def _library(options: argparse.Namespace) -> Library:
    settings = Settings(_environ(options))
    if options.tenant:
        return Library.of_machine(settings, options.tenant)
    password = os.environ.get("RECADO_PASSWORD") or getpass.getpass(f"Password of {options.email}: ")
    return Library.of_person(settings, options.email, password)


def _environ(options: argparse.Namespace) -> Mapping[str, str]:
    """The file that is named; without one, the environment over what `recado up` wrote."""
    named = options.env_file or (options.data and str(Path(options.data) / "env"))
    path = Path(named or ROOT / ".recado" / "env")
    if named and not path.is_file():
        raise PlatformError(f"There is no file {named}.")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.lstrip().startswith("#"))
    written = {name.strip(): value.strip().strip("\"'") for name, value in pairs}
    return written if named else {**written, **os.environ}


def _read(name: str) -> Any:
    try:
        # some editors begin a file with a byte order mark
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8-sig")
        file = json.loads(text)
        json.dumps(file, ensure_ascii=False, allow_nan=False).encode()  # Python reads more than JSON has
    except OSError as error:
        raise PlatformError(f"{name} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise PlatformError(f"{name} is not JSON: {error}.") from error
    return file


def _write(name: str, text: str) -> None:
    try:
        Path(name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise PlatformError(f"{name} cannot be written: {error.strerror}.") from error
