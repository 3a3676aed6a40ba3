"""Numbers for texts: what is looked up for each of a hundred answers lies in arrays, not under a UID."""

from __future__ import annotations

import threading
from collections.abc import Collection


class Numbers:
    """Gives each text a number, from 0 up, that it has as long as the process lives.

    Any thread may ask and add. About 150 bytes a text, which is never forgotten.

    Attributes
    ----------
    texts : list of str
        By number. Only `of` adds to it.
    """

    def __init__(self) -> None:
        self._adding = threading.Lock()
        self._numbers: dict[str, int] = {}
        self.texts: list[str] = []
        self.get = self._numbers.get                # number of a text, or None

    def __len__(self) -> int:
        return len(self.texts)

    def of(self, texts: Collection[str]) -> list[int]:
        """Return the number of each text; one that has none is given the next."""
        known = self._numbers
        if not all(map(known.__contains__, texts)):
            with self._adding:
                for text in texts:
                    if text not in known:
                        self.texts.append(text)     # first: whoever finds a number finds its text
                        known[text] = len(self.texts) - 1
        return [known[text] for text in texts]


__all__ = ["Numbers"]
