"""How a template must be filled in: Meta counts the parameters of each part, and looks at their kinds."""

from __future__ import annotations

import re
from typing import Any

from local.simulator.graph_errors import GraphError

_BLANK = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_LONGEST = {"header": 60, "body": 1024}
_FILES = ("image", "video", "document")
# what a button takes: the type of its parameter, and whether it must be there
_BUTTONS = {"QUICK_REPLY": ("payload", False), "COPY_CODE": ("coupon_code", True), "FLOW": ("action", False)}

Component = dict[str, Any]


def check(components: list[Component], parameter_format: str, given: list[Component]) -> None:
    """132000: not as many as there are blanks; 132012: of another kind; 132005, 132007: their text."""
    parts = {str(one["type"]).lower(): one for one in components}
    told = {_place(one): one.get("parameters") or [] for one in given}
    expected = {("header", ""), ("body", "")} | set(_buttons(parts))
    if unknown := set(told) - expected:
        raise GraphError(132012, f"The template has no {' '.join(min(unknown)).strip()}.")
    for name in ("header", "body"):
        _check_part(name, parts.get(name, {}), parameter_format, told.get((name, ""), []))
    for place, button in _buttons(parts).items():
        _check_button(place, button, told.get(place))


def _place(component: Component) -> tuple[str, str]:
    kind = str(component.get("type")).lower()
    return (kind, str(component.get("index"))) if kind == "button" else (kind, "")


def _buttons(parts: dict[str, Component]) -> dict[tuple[str, str], Component]:
    buttons = parts.get("buttons", {}).get("buttons", [])
    return {("button", str(index)): button for index, button in enumerate(buttons)}


def _check_part(name: str, part: Component, parameter_format: str, given: list[Component]) -> None:
    shown = str(part.get("format", "TEXT")).lower()
    if shown != "text":
        _check_header(shown, given)
        return
    text = str(part.get("text", ""))
    blanks = list(dict.fromkeys(_BLANK.findall(text)))
    if len(given) != len(blanks):
        details = f"{name}: number of localizable_params ({len(given)}) does not match the expected number"
        raise GraphError(132000, f"{details} of params ({len(blanks)})")
    if any(one.get("type") not in ("text", "currency", "date_time") for one in given):
        raise GraphError(132012, f"{name}: the parameters must be texts.")
    if parameter_format == "NAMED" and {one.get("parameter_name") for one in given} != set(blanks):
        raise GraphError(132012, f"{name}: the parameters must be named {', '.join(blanks)}.")
    _check_texts(name, text, [str(one.get("text", "")) for one in given])


def _check_texts(name: str, text: str, given: list[str]) -> None:
    for value in given:
        if not value:
            raise GraphError(131008, "Parameter of type text is missing text value")
        if re.search(r"[\n\t]| {5,}", value):
            raise GraphError(
                132007,
                "Param text cannot have new-line/tab characters or more than 4 consecutive spaces",
            )
    if len(_BLANK.sub("", text)) + sum(map(len, given)) > _LONGEST[name]:
        raise GraphError(132005, f"{name}: the text is too long.")


def _check_header(shown: str, given: list[Component]) -> None:
    kinds = [one.get("type") for one in given]
    if kinds != [shown]:
        raise GraphError(132012, f"header: Format mismatch, expected {shown.upper()}, received {kinds}")
    value = given[0].get(shown)
    if not isinstance(value, dict) or (shown in _FILES and ("id" in value) == ("link" in value)):
        raise GraphError(132012, f"header: the {shown} must be given.")


def _check_button(place: tuple[str, str], button: Component, given: list[Component] | None) -> None:
    parameter, is_needed = _needs(button)
    if given is None and is_needed:
        raise GraphError(131008, f"buttons: the button at index {place[1]} requires a parameter.")
    if given is not None and [one.get("type") for one in given] != [parameter]:
        raise GraphError(132012, f"buttons: the parameter at index {place[1]} is not one of this button.")


def _needs(button: Component) -> tuple[str, bool]:
    kind = str(button.get("type")).upper()
    if kind == "OTP" or (kind == "URL" and _BLANK.search(str(button.get("url")))):
        return "text", True
    return _BUTTONS.get(kind, ("", False))
