"""What the database tells people: complete, and in the reader's language."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.sql.given import Business

SQL = "\n".join(path.read_text() for path in sorted((Path(__file__).parents[2] / "sql").glob("*.sql")))
REFUSED = set(re.findall(r"private\.refuse\(\s*'PT\d+', '(\w+)'[,)]", SQL))
NAMES = re.compile(r"\{(\w+)\}")


def test_every_reason_has_its_sentence_and_its_hint(db: Any) -> None:
    told = {(row["kind"], row["reason"]) for row in db.rows("select kind, reason from private.phrases")}

    assert len(REFUSED) > 40
    assert {(kind, reason) for kind in ("refusal", "hint") for reason in REFUSED} <= told


def test_all_languages_fill_in_the_same_names(db: Any) -> None:
    for phrase in db.rows("select * from private.phrases"):
        named = {language: set(NAMES.findall(phrase[language])) for language in ("es", "en", "pt")}
        assert named["es"] == named["en"] == named["pt"], phrase


@pytest.mark.parametrize(
    ("locale", "words", "hint"),
    [
        ("es", "No hay tal cliente.", "Tome su id de customer_leads."),
        ("en-US", "There is no such customer.", "Read its id from customer_leads."),
        ("pt-BR", "Não há tal cliente.", "Leia o seu id em customer_leads."),
        ("de", "No hay tal cliente.", "Tome su id de customer_leads."),
    ],
)
def test_a_refusal_is_in_the_language_of_who_asks(
    db: Any, clinic: Business, locale: str, words: str, hint: str
) -> None:
    db.run("update public.users set locale = %s", locale)

    with db.signed_in(clinic.owner), pytest.raises(psycopg.Error) as refused:
        db.value("select public.consent_record(%s, 'opt_out', 'all', 'por teléfono')", clinic.tenant_id)

    said = refused.value.diag
    assert (said.sqlstate, said.message_primary, said.message_hint) == ("PT404", words, hint)
    assert json.loads(said.message_detail or "") == {"reason": "no_lead"}


@pytest.mark.parametrize("evidence", [None, " ", "\u200b", "x" * 2001])
def test_a_statement_without_usable_evidence_is_refused(
    db: Any, clinic: Business, evidence: str | None
) -> None:
    with db.signed_in(clinic.owner), pytest.raises(psycopg.Error, match="consent_evidence"):
        db.value("select public.consent_record(%s, 'opt_out', 'all', %s)", clinic.tenant_id, evidence)


@pytest.mark.parametrize("text", [None, "", " \n\t", "\u00a0\u3000\u200b\ufeff", "\U000e0041\u00ad\u2800"])
def test_a_text_that_nobody_can_see_is_blank(db: Any, text: str | None) -> None:
    assert db.value("select private.is_blank(%s)", text)


@pytest.mark.parametrize("text", ["a", ".", " ñ ", "👍", "👨\u200d👩", "\u200e5", "漢"])
def test_a_text_with_anything_to_see_is_none(db: Any, text: str) -> None:
    assert not db.value("select private.is_blank(%s)", text)
