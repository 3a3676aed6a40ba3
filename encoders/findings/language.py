"""Whether a report is in English: the rules know no other language."""

from __future__ import annotations

import re

_WORD = re.compile(r"[^\W\d_]{2,}")
#: Function words, and words of reports; the names of findings are left out: other languages share them.
_ENGLISH = frozenset(
    """
    about above acute adjacent after again age airspace all and angle angles any aortic apex appear appears are area
    arthritis as at atherosclerosis atherosclerotic away bases be been bibasilar bilateral blunting bone bones bony
    both but by calcification calcifications calcified can cardiac cardiomediastinal cardiopulmonary carina change
    changes chest chf chronic clear clips collapse compared contour contours contrast copd could cxr daily deformity
    degenerative demonstrated disease distribution due emphysema enlarged evidence evident exam examination fibrosis
    finding findings focal for free from granuloma granulomatous had has have heart hernia hiatal hilar however
    hyperinflated hyperinflation hypoinflation if improved in increased inflammatory intact interstitial interval is
    it its kyphosis large left less likely limits line lobe lobes low lower lung lungs markings may mediastinal
    mediastinum mild mildly minimal moderate multiple negative new no normal not noted of old on or osseous
    osteopenia osteophytes otherwise over overlying patchy patient perihilar peripheral possible
    postoperative pre previous prior process projection prominent pulmonary question radiograph radiographic remains
    report rib ribs right satisfactory scar scarring scoliosis seen severe shadow showed shows silhouette since size
    slight slightly small soft spine spondylosis stable sternotomy structures study suggest suggests supine surgical
    that the there these thickening thickenings this though to tortuosity tortuous trace unchanged unremarkable
    upper vascular vascularity versus view views volume volumes was well were when which wires with within without
    wnl
    """.split()  # noqa: SIM905 - a list would take a line a word
)
#: Function words of German, French, Spanish, Italian, Portuguese and Dutch that English reports do not use; a word
#: with a letter outside ASCII counts as one.
_FOREIGN = frozenset(
    """
    au aux avec ce con da dans das de dei del della delle dem den der des di do du een ein eine einer el em en est
    et fuer für geen gli hay het il ist kein keine keinen la las le les los mais met mit na nei nel nella ni nicht
    niet non nos não oder ohne ou para pas por pour se sem senza sich sin sind sont sous sur um un una und une van
    von wird zum zur
    """.split()  # noqa: SIM905
)
#: A report of which fewer words than one in twelve are known is in none of these languages.
_KNOWN_SHARE = 1 / 12


def in_another_language(text: str, mentions: int) -> bool:
    """Return whether `text` has words and hardly any is English: a known word, or one of `mentions` findings.

    "XXXX" (anonymisation) is no word.
    """
    words = [word for word in _WORD.findall(text.lower()) if word.strip("x")]
    english = mentions + sum(word in _ENGLISH for word in words)
    foreign = sum(word in _FOREIGN or not word.isascii() for word in words)
    return bool(words) and (english <= foreign or english < len(words) * _KNOWN_SHARE)
