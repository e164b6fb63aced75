"""`recado build`: what is deployed holds all it needs, and runs here as it will there."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from local import build as builder
from local.build import BuildError, build, build_all, command, deployed_name, functions
from tests.conftest import free_port


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of its own: one function, one shared module."""
    root = tmp_path / "repo"
    files = {
        "functions/say_hi/main.py": "from shared import words\n",
        "functions/say_hi/requirements.txt": "httpx  # names only\n",
        "functions/say_hi/__pycache__/main.cpython-311.pyc": "",
        "functions/say_hi/.env": "SECRET=1",
        "shared/words.py": "HI = 'hi'\n",
        "constraints.txt": (builder.ROOT / "constraints.txt").read_text(),
        "pyproject.toml": '[project]\nversion = "1.2.3"\n',
    }
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    monkeypatch.setattr(builder, "ROOT", root)
    return root


def test_a_staged_folder_is_the_function_with_shared_and_pins(repo: Path, tmp_path: Path) -> None:
    staged = build("say_hi", tmp_path / "build")

    assert snapshot(staged).keys() == {"main.py", "requirements.txt", "release.json", "shared/words.py"}
    assert [path.name for path in (tmp_path / "build").iterdir()] == ["say_hi"]


def test_requirements_hold_the_whole_closure_pinned(repo: Path, tmp_path: Path) -> None:
    lines = (build("say_hi", tmp_path) / "requirements.txt").read_text().splitlines()

    names = [line.split("==")[0] for line in lines[1:]]
    assert names == ["anyio", "certifi", "h11", "httpcore", "httpx", "idna", "typing-extensions"]
    assert all("==" in line for line in lines[1:])


def test_extras_bring_their_own_dependencies(repo: Path, tmp_path: Path) -> None:
    (repo / "functions/say_hi/requirements.txt").write_text("httpx[http2]\n")

    assert "h2==" in (build("say_hi", tmp_path) / "requirements.txt").read_text()


def test_the_same_input_gives_the_same_bytes(repo: Path, tmp_path: Path) -> None:
    assert snapshot(build("say_hi", tmp_path / "a")) == snapshot(build("say_hi", tmp_path / "b"))


def test_the_version_follows_the_content(repo: Path, tmp_path: Path) -> None:
    def version() -> str:
        return str(json.loads((build("say_hi", tmp_path) / "release.json").read_text())["version"])

    before = version()
    (repo / "shared/words.py").write_text("HI = 'hello'\n")

    assert before.startswith("1.2.3+")
    assert version() != before


def test_a_folder_that_would_come_out_the_same_keeps_its_bytecode(repo: Path, tmp_path: Path) -> None:
    bytecode = build("say_hi", tmp_path) / "shared/__pycache__/words.cpython-311.pyc"
    bytecode.parent.mkdir()
    bytecode.touch()

    build("say_hi", tmp_path)
    assert bytecode.exists()
    (repo / "shared/words.py").unlink()
    build("say_hi", tmp_path)
    assert not bytecode.exists()


def test_a_folder_somebody_edited_is_made_again(repo: Path, tmp_path: Path) -> None:
    staged = build("say_hi", tmp_path)
    (staged / "main.py").write_text("broken")

    assert (build("say_hi", tmp_path) / "main.py").read_text() == "from shared import words\n"


def test_a_failed_build_leaves_what_was_there(repo: Path, tmp_path: Path) -> None:
    before = snapshot(build("say_hi", tmp_path / "build"))
    (repo / "functions/say_hi/requirements.txt").write_text("nobody-pinned-this\n")

    with pytest.raises(BuildError):
        build("say_hi", tmp_path / "build")

    assert snapshot(tmp_path / "build" / "say_hi") == before


def test_an_unknown_function_lists_the_known_ones(repo: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"no function 'nope'; there are: say_hi"):
        build("nope", tmp_path)


@pytest.mark.parametrize(
    ("requirements", "complaint"),
    [
        (None, r"functions/say_hi has no requirements.txt"),
        (
            "nobody-pinned-this",
            r"functions/say_hi/requirements.txt needs nobody-pinned-this, which has no version",
        ),
        ("not a requirement!", r"requirements.txt has a line that is no requirement"),
    ],
)
def test_a_bad_requirement_names_its_file(
    repo: Path, tmp_path: Path, requirements: str | None, complaint: str
) -> None:
    file = repo / "functions/say_hi/requirements.txt"
    file.unlink() if requirements is None else file.write_text(requirements)

    with pytest.raises(BuildError, match=complaint):
        build("say_hi", tmp_path)


def test_an_installed_version_that_is_not_the_pinned_one_is_refused(repo: Path, tmp_path: Path) -> None:
    pins = repo / "constraints.txt"
    pins.write_text(pins.read_text().replace("httpx==", "httpx==9"))

    with pytest.raises(BuildError, match=r"httpx .* is installed but constraints.txt says 9"):
        build("say_hi", tmp_path)


def test_every_function_of_this_repository_can_be_staged(tmp_path: Path) -> None:
    staged = build_all(tmp_path)

    assert [folder.name for folder in staged] == functions()
    assert all((folder / "shared/runtime.py").exists() for folder in staged)


def test_a_deployed_name_has_dashes() -> None:
    assert deployed_name("detect_blocks") == "detect-blocks"


# --- running a staged folder


@contextmanager
def started(name: str, folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    argv, environment = command(name, folder, port)
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **environment}
    process = subprocess.Popen(
        argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1000):
        assert process.poll() is None, process.communicate()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError(f"nothing listens on {port}")


def get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return str(answer.read().decode())


def test_a_staged_function_serves_and_leaves_on_sigterm(tmp_path: Path) -> None:
    staged, port = build("hello", tmp_path), free_port()

    with started("hello", staged, port) as process:
        wait_for(port, process)
        greeting = get(port, "/?name=Ana")
        process.terminate()
        out, err = process.communicate(timeout=10)

    assert (greeting, process.returncode, err) == ("Hello, Ana!\n", 0, b"")
    logged = [json.loads(line) for line in out.splitlines()]
    assert [line["message"] for line in logged] == ["settings are missing", "request"]
    assert {line["function"] for line in logged} == {"hello"}


def test_a_killed_function_can_be_started_again_on_its_port(tmp_path: Path) -> None:
    staged, port = build("hello", tmp_path), free_port()

    for _ in range(2):
        with started("hello", staged, port) as process:
            wait_for(port, process)
            assert get(port, "/").startswith("Hello")
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=10)


def test_a_staged_function_without_shared_cannot_find_it_elsewhere(tmp_path: Path) -> None:
    staged = build("hello", tmp_path)
    (staged / "shared").rename(tmp_path / "away")

    assert "No module named 'shared'" in start_failure(staged)


def test_a_function_cannot_import_the_platform(tmp_path: Path) -> None:
    staged = build("hello", tmp_path)
    (staged / "main.py").write_text("import local\n")

    assert "No module named 'local'" in start_failure(staged)


def test_a_function_cannot_import_a_package_it_did_not_name(tmp_path: Path) -> None:
    staged = build("hello", tmp_path)
    (staged / "main.py").write_text("import psycopg\n")

    assert "No module named 'psycopg'" in start_failure(staged)


def start_failure(staged: Path) -> str:
    with started("hello", staged, free_port()) as process:
        _out, err = process.communicate(timeout=20)
    return err.decode()
