"""What `recado sequences` says of files that it cannot use, before anybody else sees them."""

from __future__ import annotations

from pathlib import Path

import pytest

from local.errors import PlatformError
from local.sequences import _read, _write


@pytest.mark.parametrize(
    "text", ["", "{", '{"version": NaN}', '["\\ud800"]', "[" * 100_000 + "]" * 100_000, "\xff"]
)
def test_what_is_not_json_is_said_so(tmp_path: Path, text: str) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(text.encode("latin-1"))

    with pytest.raises(PlatformError, match="is not JSON"):
        _read(str(path))


def test_a_byte_order_mark_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text('{"version": 1}', encoding="utf-8-sig")

    assert _read(str(path)) == {"version": 1}


def test_where_nothing_can_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="cannot be written"):
        _write(str(tmp_path / "nowhere" / "file.json"), "{}")
