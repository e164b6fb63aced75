"""Words of customers that give orders to software, in the languages this product is sold in.

What people write to a business looks different. A list is never complete: it is the first of several guards.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_FORGET = (
    r"(?:ignor[aeá]\w{0,2}|olvid[aeá]\w{0,2}|esque[cç][ae]\w{0,2}|forget|disregard|overrid[ei]\w*|bypass"
    r"|omit[eai]r?|desconsider[ae]\w{0,2}|no\s+(?:hagas\s+caso|sigas|obedezcas)|ha(?:z|gas?)\s+caso\s+omiso"
    r"|do(?:n.t|\s+not)\s+(?:follow|obey)|n[aã]o\s+(?:siga|obede[cç]a))"
)
_RULES = r"(?:instru[cç]\w+|prompts?|reglas|regras|rules|[oó]rdenes|ordens|orders|guidelines|direc?tri\w+)\b"
_ALL_BEFORE = (
    r"(?:todo\s+lo\s+anterior|tudo\s+(?:isso|(?:o\s+)?que\s+veio\s+antes)|"
    r"(?:all|everything)\s+(?:of\s+the\s+)?(?:above|before|previous)"
    r"|lo\s+que\s+(?:te|le|os)\s+(?:dijeron|han\s+dicho|indicaron|ordenaron)"
    r"|o\s+que\s+(?:te|lhe)\s+disseram|what\s+(?:they\s+told\s+you|you\s+were\s+told))"
)
_MARK = (
    r"(?:m[aá]r(?:k|c[ao]\w*|qu?e\w*)|clasif\w+|classif\w+|categori[zc]\w+|etiquet\w+|label|regist\w+|anot\w+"
    r"|defin\w+|coloqu?\w+|pon(?:ga|gan|er|me|lo|la)?|set|put|mov[ei]\w*|cambi\w+|change|update|actuali[zc]\w+"
    r"|atuali[zc]\w+)"
)
_DEGREE = r"(?:[1-5]|uno|dos|tres|cuatro|cinco|one|two|three|four|five|um|dois|tr[eê]s|quatro)"
_MACHINE = r"(?:asistente|assistant|assistente|model\w*|ia|ai|bot|llm|algorit\w+|sistema|system)"
_ORDERS = re.compile(
    "|".join(
        (
            rf"\b{_FORGET}(?:\s+\w+){{0,4}}?\s+{_RULES}",
            rf"\b{_FORGET}\s+{_ALL_BEFORE}",
            r"\bobed[eé][czç]\w+|\bobey\b",
            r"(?:system|developer|assistant)\s*(?:prompt|message)\b|\bprompt\s+(?:del?\s+)?sistema",
            r"<[|/]?\s*(?:system|im_start|im_end|assistant)\b|\bjailbreak\b",
            r"(?:modo|mode)\W+(?:desarrollador|developer|admin\w*|dios|god|dan)\b",
            r"\b(?:developer|admin\w*|god|dan)\W+mode\b",
            r"^\W*(?:system|sistema|developer|assistant)\s*:",
            r"\byou\s+are\s+now\b|\b(?:ahora\s+eres|agora\s+voc[eê]\s+[eé])\b",
            (
                r"\b(?:act[uú]a|comp[oó]rtate|finge|aja|finja|behave|act|pretend)\s+(?:como|as|to\s+be|que\s+eres)"
                rf"\s+(?:una?|an?|uma?)\s+{_MACHINE}\b"
            ),
            (
                r"\b(?:dear|querid[oa]|estimad[oa]|nota?\s+(?:para|to|for)(?:\s+(?:el|la|the|o|a))?)"
                rf"\s+(?:{_MACHINE}|anali?st\w*)\b"
            ),
            r"\bas\s+an?\s+(?:ai|language\s+model)\b",
            r"\bcomo\s+(?:una?\s+|uma\s+)?(?:ia|inteligencia\s+artificial)\b",
            (
                r"\b(?:priori(?:ty|dade?)|urg[eê]nc(?:y|ia))\W+"
                rf"(?:(?:to|at|a|en|em|para|of|de|is|es|ser|be|level|n[ií]vel)\W+){{0,2}}{_DEGREE}\b"
            ),
            (
                rf"\b{_MARK}(?:\s+\w+){{0,4}}?\s+(?:(?:as|como|to|a|en)\s+)?[\"'«]?"
                r"(?:won|lost|booked|qualified|ganad[oa]|ganador|ganh[oa])\b"
            ),
            rf"\b{_MARK}(?:\s+\w+){{0,4}}?\s+(?:en\s+(?:el|tu|su)|in\s+(?:the|your)|no)\s+crm\b",
            r"\b(?:profile[_\s]?status|next_action_at|next_action|is_manipulated)\b",
        )
    ),
    re.IGNORECASE | re.MULTILINE,
)
_SET_APART = re.compile(r"(?<=\b\w)\s+(?=\w\b)")  # l e t t e r s

# How an order may call what it asks for, besides the business's own word for it.
_STATUSES = {
    "won": "gana|ganh|won|win",
    "lost": "perd|lost|lose",
    "booked": "reserv|agend|book",
    "qualified": "calific|qualific|qualified",
    "contacted": "contact",
}
_PRIORITIES = {
    1: "1|uno|um|one",
    2: "2|dos|dois|two",
    3: "3|tres|três|three",
    4: "4|cuatro|quatro|four",
    5: "5|cinco|five",
}


def gives_orders(words: str) -> bool:
    """As written, or without what hides it: invisible characters, letters of another width, or set apart."""
    plain = "".join(c for c in unicodedata.normalize("NFKC", words) if unicodedata.category(c) != "Cf")
    return any(_ORDERS.search(form) for form in {words, plain, _SET_APART.sub("", plain)})


def ask_for(orders: Iterable[str], status: str | None, priority: int | None) -> bool:
    """Do these orders name that status or priority? None: of no interest."""
    names = []
    if status is not None:
        names.append(rf"\b(?:{re.escape(status)}|{_STATUSES.get(status.casefold(), re.escape(status))})")
    if priority is not None:
        names.append(rf"\b(?:{_PRIORITIES[priority]})\b")
    return any(re.search(name, words, re.IGNORECASE) for words in orders for name in names)
