"""`recado build`: stage build/<name>/, the folder that is deployed, and run such a folder as the cloud would.

A staged folder holds the function, `shared`, requirements.txt with every dependency pinned, and release.json.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from local.errors import PlatformError

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# Made by `recado build` from functions/{}/requirements.txt and constraints.txt.\n"
# Markers are read for where the function runs, not for the machine that stages it.
TARGET = {
    "implementation_name": "cpython",
    "implementation_version": "3.11.0",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_release": "",
    "platform_system": "Linux",
    "platform_version": "",
    "python_full_version": "3.11.0",
    "python_version": "3.11",
    "sys_platform": "linux",
}


class BuildError(PlatformError):
    """The function cannot be staged; the message says what to change."""


def functions() -> list[str]:
    """Names of the folders in functions/, in the order of their ports."""
    return sorted(main.parent.name for main in (ROOT / "functions").glob("*/main.py"))


def deployed_name(name: str) -> str:
    return name.replace("_", "-")


def build_all(out_dir: Path) -> list[Path]:
    return [build(name, out_dir) for name in functions()]


def build(name: str, out_dir: Path) -> Path:
    """Stage one function. A folder that would come out the same is left alone, with its bytecode."""
    if name not in functions():
        raise BuildError(f"There is no function {name!r}; there are: {', '.join(functions())}.")
    files = _contents(name)
    target = out_dir / name
    if _tree(target) == files:
        return target
    out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out_dir, prefix=f".{name}-") as beside:
        _write(files, Path(beside) / "new")
        if target.exists():
            target.rename(Path(beside) / "old")
        (Path(beside) / "new").rename(target)
    return target


def command(name: str, folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    """How the staged `folder` runs: what to execute, and the environment it needs beside its settings.

    As in the cloud it can import its own folder and the packages of its requirements.txt, and nothing else:
    -S keeps the editable install of this repository out, -P the working directory, and PYTHONPATH is a folder
    of links to the packages it pinned.
    """
    cell = folder.parent / f".{name}"
    packages = _link_packages(folder / "requirements.txt", cell / "packages")
    argv = [sys.executable, "-P", "-S", "-m", "functions_framework", "--asgi", "--target", "main"]
    environment = {
        "FUNCTION_TARGET": "main",
        "GUNICORN_LOG_LEVEL": "error",
        "HOST": "127.0.0.1",
        "K_SERVICE": deployed_name(name),
        "LOG_EXECUTION_ID": "false",
        "PORT": str(port),
        "PYTHONDONTWRITEBYTECODE": "",  # the cloud has bytecode too
        "PYTHONPATH": str(packages),
        "XDG_RUNTIME_DIR": str(cell),  # gunicorn's control socket, which functions would take from each other
    }
    return [*argv, "--source", str(folder / "main.py")], environment


def _contents(name: str) -> dict[str, bytes]:
    """Every file of the staged folder by its path. The version is the content: same input, same bytes."""
    shared = {f"shared/{path}": data for path, data in _tree(ROOT / "shared").items()}
    files = _tree(ROOT / "functions" / name) | shared
    files["requirements.txt"] = _pinned(name).encode()
    digest = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()
    stamp = {"name": deployed_name(name), "version": f"{_project_version()}+{digest[:12]}"}
    return files | {"release.json": json.dumps(stamp).encode()}


def _tree(folder: Path) -> dict[str, bytes]:
    """Neither bytecode nor hidden files, which may be an editor's or hold secrets."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(relative): path.read_bytes()
        for path, relative in ((path, path.relative_to(folder)) for path in paths)
        if path.suffix != ".pyc" and not any(part.startswith(".") for part in relative.parts)
    }


def _write(files: Mapping[str, bytes], folder: Path) -> None:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def _project_version() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return str(project["version"])


def _pinned(name: str) -> str:
    """requirements.txt with the whole closure: the cloud installs exactly what was tested here."""
    source = f"functions/{name}/requirements.txt"
    if not (ROOT / source).exists():
        raise BuildError(
            f"functions/{name} has no requirements.txt; write the names of the packages it imports."
        )
    pins = _constraints()
    pending = _requirements(ROOT / source)
    found: dict[str, str] = {}
    seen: set[str] = set()
    while pending:
        requirement = pending.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        package = canonicalize_name(requirement.name)
        if package not in pins:
            raise BuildError(f"{source} needs {requirement.name}, which has no version in constraints.txt.")
        found[package] = pins[package]
        pending += _dependencies(requirement, pins[package])
    lines = "".join(f"{package}=={version}\n" for package, version in sorted(found.items()))
    return HEADER.format(name) + lines


def _dependencies(requirement: Requirement, pin: str) -> Iterator[Requirement]:
    installed = _installed(requirement.name)
    if installed.version != pin:
        raise BuildError(
            f"{requirement.name} {installed.version} is installed but constraints.txt says {pin}; "
            "run: pip install -c constraints.txt -e '.[local,dev]'."
        )
    for dependency in map(Requirement, installed.requires or []):
        extras = requirement.extras or {""}
        if dependency.marker is None or any(
            dependency.marker.evaluate(TARGET | {"extra": e}) for e in extras
        ):
            dependency.marker = None
            yield dependency


def _installed(package: str) -> Distribution:
    try:
        return distribution(package)
    except PackageNotFoundError:
        raise BuildError(
            f"{package} is not installed; run: pip install -c constraints.txt -e '.[local,dev]'."
        ) from None


def _requirements(file: Path) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in file.read_text().splitlines())
    try:
        return [Requirement(line) for line in lines if line]
    except InvalidRequirement as exc:
        raise BuildError(f"{file} has a line that is no requirement: {exc}") from exc


def _constraints() -> dict[str, str]:
    pins = _requirements(ROOT / "constraints.txt")
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}


def _link_packages(requirements: Path, folder: Path) -> Path:
    """A folder with links to what the pinned packages installed, renewed each time."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for requirement in _requirements(requirements):
        package = _installed(requirement.name)
        for entry in {file.parts[0] for file in package.files or []} - {"..", "__pycache__"}:
            link = folder / entry
            if not link.exists():  # namespace packages share one
                link.symlink_to(Path(str(package.locate_file(entry))))
    return folder
