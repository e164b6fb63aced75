"""Notices that the source of a function changed."""

from __future__ import annotations

import os
from pathlib import Path

from local.layout import ROOT

_WATCHED = ("functions", "shared")


class SourceWatch:
    """Compares times and sizes of the source files with those it saw last."""

    def __init__(self) -> None:
        self._seen = _stamps()

    def changed(self) -> bool:
        now = _stamps()
        changed, self._seen = now != self._seen, now
        return changed


def _stamps() -> dict[Path, tuple[int, int]]:
    files = (
        file for folder in _WATCHED for file in (ROOT / folder).rglob("*") if file.suffix in {".py", ".txt"}
    )
    return {file: (stat.st_mtime_ns, stat.st_size) for file in files if (stat := _stat(file))}


def _stat(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except FileNotFoundError:  # an editor replaces files while we look
        return None
