"""`recado`: the platform on one machine, from the command line."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from local import build, database, keys, ops, parts, platform, postgres, schema, sequences, state
from local.errors import PlatformError
from local.keys import Keys
from local.layout import DEFAULT_PORT, ROOT, Layout

_DEMO_LOGINS = (
    ("Clínica Dental, owner", "dr.perez@clinica.example"),
    ("Clínica Dental, agent", "recepcion@clinica.example"),
    ("Restaurante La Plaza, owner", "admin@laplaza.example"),
    ("Gimnasio Pulso, owner", "admin@pulso.example"),
)
_DEMO_PASSWORD = "recado-demo"  # noqa: S105  # public by design: it opens local demo data only


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except PlatformError as error:
        print(f"recado: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _up(options: argparse.Namespace) -> None:
    layout = _layout(options)
    if options.detach:
        platform.up_detached(layout, reload=options.reload)
        _print_table(layout, keys.load(layout.keys))
    else:
        platform.up(layout, reload=options.reload, on_ready=lambda secrets: _print_table(layout, secrets))


def _demo(options: argparse.Namespace) -> int:
    """On a platform of its own, so that it neither meets nor leaves anybody's data."""
    from local import demo  # here, because it brings the whole supabase client

    data = Path(tempfile.mkdtemp(prefix="recado-demo-"))
    layout = Layout(data, options.port or platform.free_base_port(), data / "env")
    try:
        print("Starting a platform...", flush=True)
        platform.up_detached(layout, reload=False)
        secrets = keys.load(layout.keys)
        well = demo.tell(layout, secrets, lambda text: print(text, flush=True))
        if options.stay:
            _print_table(layout, secrets)
            print(f"Write as a customer at http://127.0.0.1:{layout.simulator}/")
            print(f"End it with `recado down --data {data}`.")
    finally:
        if not options.stay:
            state.stop(layout)
            shutil.rmtree(data, ignore_errors=True)
    return 0 if well else 1


def _down(options: argparse.Namespace) -> None:
    print("Stopped." if state.stop(_layout(options)) else "No platform was running.")


def _status(options: argparse.Namespace) -> int:
    layout = _layout(options)
    found = state.read(layout)
    if found is None or not found.alive:
        print(f"No platform is running on the data in {layout.data}.")
        return 1
    print(f"{'PART':<20}{'PID':>8}{'PORT':>7}{'RESTARTS':>10}  STATE")
    for part in found.parts:
        word = "up" if part.alive else "down"
        print(f"{part.name:<20}{part.pid:>8}{part.port or '-':>7}{part.restarts:>10}  {word}")
    for line in ops.lines(asked) if (asked := ops.ask(found)) else ():
        print(line)
    whole = found.ready and all(part.alive for part in found.parts)
    print("Everything is up." if whole else "Not everything is up.")
    return 0 if whole else 1


def _logs(options: argparse.Namespace) -> None:
    layout = _layout(options)
    known = sorted(log.stem for log in layout.logs.glob("*.log"))
    if options.part and options.part not in known:
        raise PlatformError(
            f"There is no log of {options.part!r}; there are: {', '.join(known) or 'none yet'}."
        )
    chosen = [layout.log(part) for part in ([options.part] if options.part else known)]
    follow = ["--follow"] if options.follow else []
    subprocess.run(["tail", "--lines", str(options.lines), *follow, *map(str, chosen)], check=False)


def _build(options: argparse.Namespace) -> None:
    out = Path(options.out)
    for name in [options.name] if options.name else build.functions():
        print(build.build(name, out))


def _schema(_: argparse.Namespace) -> None:
    """The types come from a database of the moment, made from sql/ and thrown away."""
    print(schema.squash())
    with postgres.temporary() as port:
        database.bootstrap(port)
        database.apply(port, "postgres", schema.sql_files())
        print(schema.write_types(postgres.dsn(port)))


def _bench(options: argparse.Namespace) -> int:
    given = [*(["--full"] if options.full else []), *(["--json", options.json] if options.json else [])]
    argv = [sys.executable, "-m", "bench", *given, *options.modules]
    return subprocess.run(argv, cwd=ROOT, check=False).returncode


def _layout(options: argparse.Namespace) -> Layout:
    data = Path(options.data).resolve()
    env_file = Path(options.env_file).resolve() if getattr(options, "env_file", None) else data / "env"
    return Layout(data, getattr(options, "port", DEFAULT_PORT), env_file)


def _print_table(layout: Layout, secrets: Keys) -> None:
    rows = [*parts.environment(layout, secrets).items()]
    rows += [(f"login: {who}", f"{email} / {_DEMO_PASSWORD}") for who, email in _DEMO_LOGINS]
    width = max(len(name) for name, _ in rows) + 2
    for name, value in rows:
        print(f"{name:<{width}}{value}")
    print(
        f"\nThese are in {layout.env_file}. Stop with `recado down`; logs: `recado logs [part]`.", flush=True
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="recado", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, help_text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help_text, description=help_text)
        made.set_defaults(run=run)
        return made

    def on_data(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
        made.add_argument(
            "--data", default=str(ROOT / ".recado"), metavar="DIR", help="data directory (.recado)"
        )
        return made

    up = on_data(command("up", _up, "Start the platform and keep it running."))
    up.add_argument("--detach", action="store_true", help="return once everything answers")
    up.add_argument(
        "--port", type=_port, default=DEFAULT_PORT, metavar="N", help=f"base port ({DEFAULT_PORT})"
    )
    up.add_argument("--env-file", metavar="F", help="where to write the dotenv file (DIR/env)")
    up.add_argument("--reload", action="store_true", help="restart functions whose source changes")
    on_data(command("down", _down, "Stop the platform; its data stays."))
    on_data(command("status", _status, "Show what runs; exit 1 unless everything is up."))
    logs = on_data(command("logs", _logs, "Show the logs of one part, or of all."))
    logs.add_argument("part", nargs="?")
    logs.add_argument("--lines", type=int, default=50, metavar="N", help="how many of the last lines (50)")
    logs.add_argument("--follow", action="store_true", help="go on as they grow")
    shown = command("demo", _demo, "Show the main job on a fresh platform; exit 1 unless all of it works.")
    shown.add_argument(
        "--stay", action="store_true", help="leave it running, with a page to write as a customer"
    )
    shown.add_argument("--port", type=_port, metavar="N", help="base port (one that is free)")
    staged = command(
        "build", _build, "Stage functions as they are deployed: code, shared package, pinned packages."
    )
    staged.add_argument("name", nargs="?", help="a function; all of them without it")
    staged.add_argument("--out", default=str(ROOT / "build"), metavar="DIR", help="where to (build)")
    measured = command("bench", _bench, "Measure what is claimed about speed; exit 1 if a goal is missed.")
    measured.add_argument("--full", action="store_true", help="at the sizes that the goals speak of")
    measured.add_argument("--json", type=_path, metavar="FILE", help="write the figures there too")
    measured.add_argument("modules", nargs="*", help="only these modules of bench/")
    sequences.add(commands)
    command("schema", _schema, "Write the migration and the front ends' types from sql/.")
    return parser


def _path(text: str) -> str:
    return str(Path(text).resolve())


def _port(text: str) -> int:
    port = int(text)
    if not 1024 <= port <= 65000:
        raise argparse.ArgumentTypeError("a base port is between 1024 and 65000")
    return port


if __name__ == "__main__":
    sys.exit(main())
