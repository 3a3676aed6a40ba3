"""Where findings, impression and indication stand in a report: by code of the section, else by its heading."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["findings", "impression", "indication", "other"]

#: (scheme, code) of section titles: LOINC as in PS3.16 CID 7001 and PS3.20, DCM as in PS3.16 CID 7001, 7002 ff.
SECTION_CODES: Mapping[tuple[str, str], Kind] = {
    ("LN", "59776-5"): "findings",
    ("LN", "18782-3"): "findings",                  # Radiology Study observation
    ("DCM", "121070"): "findings",
    ("DCM", "121071"): "findings",
    ("LN", "19005-8"): "impression",
    ("LN", "55110-1"): "impression",                # Conclusions
    ("DCM", "121072"): "impression",
    ("DCM", "121073"): "impression",
    ("DCM", "121074"): "impression",                # Recommendations
    ("DCM", "121075"): "impression",
    ("DCM", "121076"): "impression",
    ("DCM", "121077"): "impression",
    ("LN", "18783-1"): "impression",                # Study recommendation
    ("DCM", "111023"): "impression",                # Differential Diagnosis
    ("LN", "18785-6"): "indication",
    ("LN", "11329-0"): "indication",                # History
    ("LN", "29299-5"): "indication",                # Reason for visit
    ("DCM", "121060"): "indication",
    ("DCM", "121062"): "indication",                # Request
    ("DCM", "121109"): "indication",
    ("DCM", "121110"): "other",                     # Patient Presentation
    ("DCM", "121064"): "other",                     # Current Procedure Descriptions
    ("DCM", "121065"): "other",
    ("DCM", "121068"): "other",                     # Previous Findings
    ("DCM", "121069"): "other",
    ("DCM", "121078"): "other",                     # Addendum
    ("DCM", "121080"): "other",                     # Best illustration of finding
    ("DCM", "121111"): "other",                     # Summary (of an examination's conduct)
    ("DCM", "113855"): "other",
    ("LN", "18834-2"): "other",                     # Comparison study
    ("LN", "55111-9"): "other",                     # Current imaging procedure descriptions
    ("LN", "55115-0"): "indication",                # Requested imaging studies
    ("LN", "55114-3"): "other",                     # Prior imaging procedure descriptions
}

# Headings, without accents, of English, German, French, Spanish, Portuguese, Dutch and Italian reports.
_HEADINGS: Mapping[Kind, str] = {
    "findings": """findings?|findings and impression|findings ?/? ?impression|observations?|descriptions?|
        report|results?|radiographic findings|chest findings|befund|befunde|rontgenbefund|befundbericht|
        beschreibung|resultats?|constatations?|compte rendu|hallazgos|descripcion|informe|resultados?|achados|
        descricao|laudo|relatorio|bevindingen|verslag|beschrijving|reperti|referto|descrizione""",
    "impression": """impressions?|conclusions?|opinion|summary|diagnosis|assessment|interpretation|
        impression and recommendations?|recommendations?|final impression|beurteilung|zusammenfassung|diagnose|
        zusammenfassende beurteilung|bewertung|empfehlung|synthese|avis|impresion|impresion diagnostica|conclusion|
        conclusiones|diagnostico|juicio clinico|recomendaciones|impressao|impressao diagnostica|conclusao|conclusoes|
        opiniao|conclusie|conclusies|samenvatting|advies|conclusioni|conclusione|impressioni""",
    "indication": """indications?|clinical indications?|history|clinical history|clinical information|clinical data|
        reason for (?:the )?(?:exam|examination|study|visit|request|referral)|reason|clinical details|
        clinical statement|request|
        indikation|indikationen|rechtfertigende indikation|klinische angaben|klinische fragestellung|fragestellung|
        anamnese|klinik|klinische informationen|indication clinique|renseignements cliniques|motif|antecedents|
        contexte clinique|histoire clinique|indicacion|indicaciones|motivo|motivo de consulta|motivo del estudio|
        antecedentes|datos clinicos|historia clinica|indicacao|indicacao clinica|dados clinicos|motivo do exame|
        vraagstelling|klinische gegevens|klinische vraagstelling|indicatie|voorgeschiedenis|quesito clinico|
        indicazione|indicazioni|anamnesi|notizie cliniche""",
    "other": r"""technique|procedure|examination|exam|exam description|study|views?|comparisons?|comparison studies|
        comparison (?:study|exams?|films?|radiographs?)|recommendation\(s\)|recommendation s|
        prior studies|addendum|signed|dictated by|signed by|electronically signed by|transcribed by|
        attending|notification|radiation dose|dose|technik|untersuchung|untersuchungstechnik|methode|
        vergleich|voraufnahmen|nachtrag|technique d examen|examen|comparaison|comparatif|tecnica|comparacion|
        exploracion|estudio|comparacao|exame|techniek|onderzoek|vergelijking|esame|confronto""",
}


def _plain(text: str) -> str:
    """Return text without accents, one character for each of the given ones, so that positions stay."""
    return "".join(unicodedata.normalize("NFD", c)[0] for c in text)


_KINDS: dict[str, re.Pattern[str]] = {
    kind: re.compile(r"(?:" + re.sub(r"\s*\n\s*", "", words) + r")", re.IGNORECASE) for kind, words in _HEADINGS.items()
}
_WORDS = "|".join(f"(?:{re.sub(chr(10) + ' *', '', words)})" for words in _HEADINGS.values())
# A heading at the start of a line, with a colon or alone on it; inside a line only in capitals, with a colon.
_AT_LINE = re.compile(
    rf"^[ \t*#]*(?P<heading>{_WORDS})[ \t]*(?::|[ \t]-[ \t]|(?=\r?$))[ \t*]*", re.IGNORECASE | re.MULTILINE
)
_FINAL = re.compile(r"^FINAL REPORT[ \t]*:?[ \t]*$", re.MULTILINE)
_INLINE = re.compile(r"(?<![\w,])(?P<heading>[A-Z][A-Z /]{3,40}?)[ \t]*:")


@dataclass(frozen=True, slots=True)
class Sections:
    """The parts of a report that matter, each possibly empty."""

    findings: str = ""
    impression: str = ""
    indication: str = ""


def kind_of_heading(text: str) -> Kind | None:
    """Return what a section title announces, None if it is no known title."""
    title = re.sub(r"[^a-z ]+", " ", _plain(text).casefold())
    title = " ".join(title.split())
    for kind, pattern in _KINDS.items():
        if pattern.fullmatch(title):
            return kind  # type: ignore[return-value]
    return None


def tidy(text: str) -> str:
    """Return text with single spaces, at most one empty line in a row, and no control characters."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = "".join(c if c.isprintable() or c in "\n\t" else " " for c in text)
    lines = [" ".join(line.split()) for line in text.split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _boundaries(text: str) -> list[tuple[int, int, Kind]]:
    plain = _plain(text)
    found: dict[int, tuple[int, int, Kind]] = {}
    for pattern in (_AT_LINE, _INLINE):
        for match in pattern.finditer(plain):
            kind = kind_of_heading(match["heading"])
            if kind is not None:
                found.setdefault(match.start("heading"), (match.start(), match.end(), kind))
    return [found[start] for start in sorted(found)]


def _final(text: str) -> str:
    """Return what stands below a line FINAL REPORT and the title in capitals that may follow it, else all of the text.

    Reports of MIMIC-CXR begin so; above the line stands, if anything, the wet read that the report replaces.
    """
    mark = _FINAL.search(text)
    if not mark or _states(_boundaries(text[: mark.start()])):
        return text
    below = text[mark.end() :].strip() or text
    title, blank, rest = below.partition("\n\n")
    is_title = blank and "\n" not in title and title == title.upper() and not title.endswith(".")
    return rest if is_title and not _boundaries(title) else below


def _states(boundaries: list[tuple[int, int, Kind]]) -> bool:
    return any(kind in ("findings", "impression") for _, _, kind in boundaries)


def split_sections(text: str) -> Sections:
    """Return the sections of a text with headings; without any known heading all of it is findings.

    Where no section holds findings, they are the paragraphs that follow the first one of an indication, technique,
    comparison and the like, up to the impression, as in many reports of MIMIC-CXR (its own
    section parser calls such a paragraph the last one: MIT-LCP/mimic-cxr, txt/section_parser.py).
    """
    text = _final(tidy(text))
    boundaries = _boundaries(text)
    parts = _parts(text, boundaries)
    if not any(kind == "findings" and part.strip() for kind, part in parts):
        parts = list(_with_body(parts))
    if not _states(boundaries):
        above = text[: boundaries[0][0]] if boundaries else text
        if not any(kind == "findings" for kind, _ in parts):
            parts = [("findings" if kind == "other" else kind, part) for kind, part in parts]
        parts.insert(0, ("findings", above))
    return gather(parts)


def _with_body(parts: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield parts, those above an impression cut at their first empty line: what follows it are findings."""
    above = True
    for kind, part in parts:
        above &= kind != "impression"
        heading, blank, body = part.strip().partition("\n\n")
        if above and blank and kind != "findings":
            yield kind, heading
            yield "findings", body
        else:
            yield kind, part


def _parts(text: str, boundaries: list[tuple[int, int, Kind]]) -> list[tuple[str, str]]:
    ends = [*(start for start, _, _ in boundaries[1:]), len(text)][: len(boundaries)]
    return [(kind, text[begin:end]) for (_, begin, kind), end in zip(boundaries, ends, strict=True)]


def gather(parts: Iterable[tuple[str, str]]) -> Sections:
    """Return sections joined from (kind, text) in reading order."""
    texts: dict[str, list[str]] = {"findings": [], "impression": [], "indication": [], "other": []}
    for kind, text in parts:
        if text.strip():
            texts[kind].append(tidy(text))
    return Sections(**{kind: "\n".join(texts[kind]) for kind in ("findings", "impression", "indication")})
