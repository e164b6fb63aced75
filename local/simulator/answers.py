"""What a model might say: short, in Spanish, in the role its instructions give it."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

_NAME = re.compile(
    r"(?i:\b(?:eres|soy|te llamas|tu nombre es|you are|your name is)|(?:nombre|name|agente|agent)\s*:)\s+"
    r"([A-ZÁÉÍÓÚÑ][\w-]*(?: [A-ZÁÉÍÓÚÑ][\w-]*)*)"
)
_BUSINESS = re.compile(
    r"(?:(?i:negocio|empresa|business|company)\s*:|\b(?:de|del|for|of|en))\s+"
    r"(?P<name>(?:(?:la|el|the) )?[A-ZÁÉÍÓÚÑ]\w+(?: (?:de |del |la )?[A-ZÁÉÍÓÚÑ]\w+)*)"
)
# first match wins, on text without accents
_SAYINGS: tuple[tuple[str, str], ...] = (
    (r"urgen|emergenc|dolor|sangr", "Lamento oír eso. ¿Desde cuándo te pasa? Te busco un espacio hoy."),
    (r"precio|cuanto|cuesta|vale|costo|tarifa", "Con gusto te cuento. ¿Qué servicio te interesa?"),
    (r"cancel|reprogram|cambiar", "Claro, lo cambiamos. ¿Qué día y a qué hora te queda mejor?"),
    (r"\bcita|agend|limpieza|consulta|turno", "Con gusto te ayudo con tu cita. ¿Qué día y hora te sirven?"),
    (r"reserv|mesa", "Con gusto. ¿Para cuántas personas y a qué hora hacemos la reserva?"),
    (r"menu|plato|carta|comer", "Hoy te recomendamos el plato del día. ¿Te envío el menú completo?"),
    (r"domicilio|delivery|entrega|envio", "Sí, hacemos entregas. ¿Me compartes tu dirección, por favor?"),
    (r"horario|abren|cierran|hora\b", "Con gusto. ¿Qué día quieres venir? Así te confirmo el horario."),
    (r"donde|direccion|ubicacion|llegar", "Te comparto la ubicación. ¿Vienes en carro o a pie?"),
    (r"gracias|perfecto|\blisto\b|\bok\b", "¡Con mucho gusto! Aquí estoy si necesitas algo más."),
    (r"\bhola|buenas|buenos dias|saludos", "¿En qué te puedo ayudar hoy?"),
)  # fmt: skip
_OTHERWISE = "Gracias por escribirnos. ¿Me cuentas un poco más para poder ayudarte?"


@dataclass(frozen=True)
class Prompt:
    """What any chat API carries: instructions, and who said what."""

    instructions: str
    turns: list[tuple[str, str]]  # role, text

    @property
    def last_words(self) -> str:
        """Everything the customer said since the last answer: a burst is several turns."""
        words: list[str] = []
        for role, text in reversed(self.turns):
            if role == "assistant":
                break
            if role == "user":
                words.insert(0, text)
        return "\n".join(words)

    @property
    def length(self) -> int:
        return len(self.instructions) + sum(len(text) for _, text in self.turns)

    @property
    def is_first_answer(self) -> bool:
        return all(role != "assistant" for role, _ in self.turns)


def answer(prompt: Prompt) -> str:
    said = plain(prompt.last_words)
    saying = next((words for pattern, words in _SAYINGS if re.search(pattern, said)), _OTHERWISE)
    return f"{_greeting(prompt.instructions)} {saying}" if prompt.is_first_answer else saying


def plain(text: str) -> str:
    decomposed = unicodedata.normalize("NFD", text.lower())
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))


def _greeting(instructions: str) -> str:
    name, business = _NAME.search(instructions), _BUSINESS.search(instructions)
    if not name:
        return "¡Hola!"
    whose = f" de {business['name']}" if business else ""
    return f"¡Hola! Soy {name[1]}{whose}."


def fill(schema: dict[str, Any], prompt: Prompt, now: float) -> Any:
    """A value the schema accepts, with words from the conversation where words are asked for."""
    return _Filler(schema, prompt, datetime.fromtimestamp(now, UTC)).value(schema, "")


class _Filler:
    def __init__(self, root: dict[str, Any], prompt: Prompt, now: datetime) -> None:
        self._definitions = root.get("$defs", {})
        self._prompt = prompt
        self._now = now

    def value(self, schema: dict[str, Any], name: str) -> Any:
        if "$ref" in schema:
            return self.value(self._definitions[schema["$ref"].rsplit("/", 1)[-1]], name)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._choice(schema["enum"])
        if "anyOf" in schema:
            return self.value(_first_real(schema["anyOf"]), name)
        kind = schema.get("type", "string")
        if isinstance(kind, list):
            kind = next((one for one in kind if one != "null"), "null")
        return getattr(self, f"_{kind}")(schema, name)

    def _choice(self, values: list[Any]) -> Any:
        """One the conversation mentions, otherwise the first that is something."""
        said = plain(self._prompt.last_words)
        mentioned = [value for value in values if isinstance(value, str) and plain(value) in said]
        return (mentioned or [value for value in values if value is not None] or values)[0]

    def _object(self, schema: dict[str, Any], name: str) -> dict[str, Any]:
        return {key: self.value(part, key) for key, part in schema.get("properties", {}).items()}

    def _array(self, schema: dict[str, Any], name: str) -> list[Any]:
        count = min(max(schema.get("minItems", 1), 1), schema.get("maxItems", 1) or 0)
        return [self.value(schema["items"], name) for _ in range(max(count, schema.get("minItems", 0)))]

    def _string(self, schema: dict[str, Any], name: str) -> str:
        soon = self._now + timedelta(days=1)
        formats = {
            "date": soon.date().isoformat(),
            "date-time": soon.isoformat(timespec="seconds"),
            "time": "10:00:00Z",
            "duration": "P1D",
            "email": "cliente@example.com",
            "hostname": "example.com",
            "ipv4": "192.0.2.1",
            "ipv6": "2001:db8::1",
            "uuid": "00000000-0000-4000-8000-000000000001",
        }
        if schema.get("format") in formats:
            return formats[schema["format"]]
        if re.search("evidence|quote|cita_textual|evidencia", name):
            return self._prompt.last_words.split("\n")[-1]
        if re.search("action|accion", name):
            return "Escribirle para confirmar lo que pidió"
        return f"El cliente escribió: {self._prompt.last_words}"[:200]

    def _integer(self, schema: dict[str, Any], name: str) -> int:
        return int(self._number(schema, name))

    def _number(self, schema: dict[str, Any], name: str) -> float:
        low = schema.get("minimum", schema.get("exclusiveMinimum", 1) + ("exclusiveMinimum" in schema))
        high = schema.get("maximum", schema.get("exclusiveMaximum", low + 2) - ("exclusiveMaximum" in schema))
        step = schema.get("multipleOf", 1)
        return float(max(low, (low + high) / 2 // step * step))

    def _boolean(self, schema: dict[str, Any], name: str) -> bool:
        return False

    def _null(self, schema: dict[str, Any], name: str) -> None:
        return None


def _first_real(options: list[dict[str, Any]]) -> dict[str, Any]:
    return next((option for option in options if option.get("type") != "null"), options[0])
