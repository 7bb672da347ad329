"""Names that people type, and the stored names that they mean.

One letter has several spellings in Unicode: é is one code point, or e and an accent. Keyboards write the first (NFC),
some file systems store the second (NFD), and nobody sees the difference. A name is stored as the file system spells it;
what is typed is compared with it exactly first, then with both sides in NFC (Unicode Standard Annex 15: what is
canonically equivalent becomes equal).
"""

import difflib
import fnmatch
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import PurePosixPath

from retrieval.errors import RetrievalError


class Names:
    """Stored names, to be found by what people type.

    Args:
        names: as they are stored, each once.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.stored = tuple(names)

    def find(self, typed: str) -> str | None:
        """The stored name that is typed: the one that is equal or else, with both in NFC, the only one that is.

        Raises:
            RetrievalError: several are, and none as it is typed; the message spells them out.
        """
        if typed in self._all:
            return typed
        found = self._by_canonical.get(canonical(typed), ())
        if len(found) > 1:
            told = " and ".join(ascii(name) for name in found[:3])
            raise RetrievalError(
                f"{typed!r} may be any of {len(found)} names that look alike: {told}; give one as it is stored, or "
                "rename one"
            )
        return found[0] if found else None

    def fitting(self, pattern: str) -> tuple[str, ...]:
        """The stored names that are meant by a name, as by `find`, or else fit a pattern (``*``, ``?`` and ``[...]``).

        A pattern means every name that it fits in NFC, where an accented letter is one character.

        Raises:
            RetrievalError: as `find`.
        """
        name = self.find(pattern)
        if name is not None:
            return (name,)
        fits = set(fnmatch.filter(self._by_canonical, canonical(pattern)))
        return tuple(name for name in self.stored if canonical(name) in fits)

    def containing(self, text: str) -> tuple[str, ...]:
        """The stored names that contain a text, whatever its case and spelling."""
        part = _folded(text)
        return tuple(name for name in self.stored if part in _folded(name))

    @cached_property
    def _all(self) -> frozenset[str]:
        return frozenset(self.stored)

    @cached_property
    def _by_canonical(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for name in self.stored:
            key = canonical(name)
            found[key] = (*found.get(key, ()), name)
        return found


def hint_for(names: Sequence[str], typed: str) -> str | None:
    """Which stored names somebody may have meant by one that is none, as a question; None where none comes near."""
    file = canonical(PurePosixPath(typed).name)
    # the folder was left out or is another
    near = [known for known in names if canonical(PurePosixPath(known).name) == file][:3]
    near = near or difflib.get_close_matches(typed, names, 3)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else None


def canonical(name: str) -> str:
    """A name in NFC; bytes that are no text (lone surrogates) stay what they are."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _folded(text: str) -> str:
    """What is compared where neither case nor spelling counts (Unicode Standard, section 3.13, D145)."""
    if text.isascii():
        return text.lower()
    return canonical(unicodedata.normalize("NFD", text).casefold())
