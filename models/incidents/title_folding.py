"""Titles in the form in which they are searched: equal for texts that differ only in case or in composition.

It follows Unicode's caseless matching: ``ß`` is ``ss``, a final sigma is a sigma, and ``é`` is the same letter composed
or not. In addition, the Turkish dotted ``İ`` is an ``i``.
"""

from __future__ import annotations

import unicodedata
from typing import Final

FOLD_TITLE: Final = "fold_title"
"""The name of the SQL function that folds titles (``migrations/versions/0020…``).

It decides: it folds both what is stored and what is searched for. The database may know letters that Python does not.
"""


def fold_title(title: str) -> str:
    """Return the title in the form in which it is searched, as the SQL function does, which then changes nothing more.

    >>> fold_title("STRASSE") == fold_title("Straße"), fold_title("ΟΔΥΣΣΕΥΣ") == fold_title("οδυσσευς")
    (True, True)
    """
    folded = unicodedata.normalize("NFD", title).casefold().replace("i\u0307", "i")
    return unicodedata.normalize("NFC", folded)
