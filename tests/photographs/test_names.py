"""Typed names find stored ones in either spelling of Unicode."""

import os
import unicodedata

import pytest

from retrieval.errors import RetrievalError
from retrieval.photographs.names import Names, canonical

# é as one code point (NFC) and as e with an accent (NFD); written out, as an editor may turn one into the other
COMPOSED, DECOMPOSED = "caf\xe9.jpg", "cafe\u0301.jpg"
HANGUL, JAMO = "\ud55c.png", "\u1112\u1161\u11ab.png"


def test_the_spellings_are_those_of_the_standard():
    assert unicodedata.normalize("NFD", COMPOSED) == DECOMPOSED
    assert unicodedata.normalize("NFD", HANGUL) == JAMO
    assert canonical(DECOMPOSED) == COMPOSED


@pytest.mark.parametrize(("stored", "typed"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED), (JAMO, HANGUL)])
def test_either_spelling_finds_the_other(stored, typed):
    names = Names(("a.jpg", stored, "z.jpg"))
    assert names.find(typed) == names.find(stored) == stored
    assert names.find("cafe.jpg") is None
    assert names.fitting(typed) == (stored,)
    assert names.fitting(typed[:-4] + "*") == (stored,)


def test_of_two_that_look_alike_the_equal_one_is_meant():
    names = Names((COMPOSED, DECOMPOSED))
    for name in names.stored:
        assert names.find(name) == name
        assert names.fitting(name) == (name,)
    assert names.fitting("caf?.jpg") == names.fitting("caf*") == (COMPOSED, DECOMPOSED)


def test_of_several_that_look_alike_none_is_guessed():
    stored = ("\xe9-e\u0301.jpg", "e\u0301-\xe9.jpg")
    for typed in ("\xe9-\xe9.jpg", "e\u0301-e\u0301.jpg"):
        with pytest.raises(RetrievalError, match="2 names that look alike") as caught:
            Names(stored).find(typed)
        assert all(ascii(name) in str(caught.value) for name in stored)


def test_in_a_pattern_an_accented_letter_is_one_character():
    names = Names(("cafe1.jpg", DECOMPOSED))
    assert names.fitting("caf?.jpg") == (DECOMPOSED,)
    assert names.fitting("caf[\xe9].jpg") == (DECOMPOSED,)
    assert names.fitting("cafe?.jpg") == ("cafe1.jpg",)
    assert names.fitting("nothing*") == ()


def test_containing_takes_any_case_and_spelling():
    names = Names(("CAFE\u0301/Stra\xdfe.jpg", "caf\xe9.png", "cafe.png"))
    assert names.containing("Caf\xe9") == names.containing("cafe\u0301") == names.stored[:2]
    assert names.containing("STRASSE") == names.stored[:1]
    assert names.containing("cafe") == names.stored[2:]


def test_other_compatible_letters_and_odd_bytes_stay_apart():
    odd = os.fsdecode(b"caf\xe9.jpg")
    names = Names((odd, "\ufb01g.jpg"))  # fi as one letter is equal under NFKC only
    assert names.find(odd) == odd
    assert names.find(COMPOSED) is None
    assert names.find("fig.jpg") is None
