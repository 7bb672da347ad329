"""Lines of ``images.jsonl`` say what json and Python's own sorting and sets say of them, however they are spelled."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import ArtefactError
from retrieval.index.lines import Lines, lines_of
from retrieval.index.state import State


def _bytes(name):
    return name.encode("utf-8", "surrogateescape")


def _of_a_file(name):
    """Whether a file can be called so, without a slash's meaning: surrogates are bytes that are no text."""
    try:
        return _bytes(name).decode("utf-8", "surrogateescape") == name
    except UnicodeEncodeError:
        return False


BYTES = st.binary(max_size=6).map(lambda some: some.decode("utf-8", "surrogateescape"))
TEXTS = (
    st.text(st.characters(categories=("L", "P", "S", "Zs", "Cc", "Nd")))
    | BYTES
    | st.sampled_from(
        ['{"name": "x"}\n', '"content": "', '"path": "y"', "content", "path", '\\"', "\\", "a", "aa", "ab"]
    )
).filter(_of_a_file)
CONTENTS = st.text("0123456789abcdef", min_size=64, max_size=64) | st.sampled_from(["0" * 64, "1" * 64])
ENTRIES = st.fixed_dictionaries(
    {"name": TEXTS, "width": st.just(3), "height": st.just(2), "features": st.just(1)},
    optional={"content": CONTENTS, "path": TEXTS, "note": TEXTS},
)


def _turned(entries):
    return lines_of(dict(reversed(entry.items())) for entry in entries)


def _without_an_end(entries):
    return lines_of(entries).removesuffix(b"\n")


def _in_many_spellings(entries):
    """Each line in another spelling, some of them as `lines_of` writes it."""
    spellings = [
        json.dumps,
        lambda entry: json.dumps(entry, separators=(", ", " : ")),
        lambda entry: json.dumps(entry, separators=(",", ":")),
        lambda entry: '{"name": ' + json.dumps(entry["name"]) + "," + json.dumps(entry, separators=(",", ":"))[1:],
        lambda entry: json.dumps({**entry, "more": {"content": "0" * 64, "path": "/x"}}),
        lambda entry: json.dumps({**entry, "more": ["content", "path", "name"]}),
        lambda entry: json.dumps({**entry, "why": "content"}),
        lambda entry: '{"name": "another", ' + json.dumps(entry)[1:],
        lambda entry: json.dumps(entry) + "\r",
        lambda entry: json.dumps({"name": entry["name"], "content": None} | entry),
        lambda entry: json.dumps(entry).replace('"content": "0', '"content": "\\u0030'),
    ]
    number = sum(map(len, (entry["name"] for entry in entries)))
    return "".join(spellings[(number + i) % len(spellings)](entry) + "\n" for i, entry in enumerate(entries)).encode()


def _not_ascii(entries):
    """As UTF-8, where it can be."""
    texts = (json.dumps(entry, ensure_ascii=False) for entry in entries)
    return b"".join(
        (text if text.isprintable() else json.dumps(entry)).encode() + b"\n"
        for text, entry in zip(texts, entries, strict=True)
    )


@pytest.mark.parametrize("written", [lines_of, _turned, _without_an_end, _in_many_spellings, _not_ascii])
@given(entries=st.lists(ENTRIES, max_size=12, unique_by=lambda entry: entry["name"]), data=st.data())
def test_lines_say_what_json_says(written, entries, data):
    lines = Lines(Path(), written(entries))
    assert len(lines) == len(entries)
    names = [entry["name"] for entry in entries]
    assert lines.names(np.arange(len(lines))) == tuple(names)
    assert [lines.content(line) for line in range(len(lines))] == [entry.get("content") for entry in entries]
    assert [(line, entry["path"]) for line, entry in lines.placed() if "path" in entry] == [
        (line, entry["path"]) for line, entry in enumerate(entries) if "path" in entry
    ]
    assert [{**entry, **other} for entry, other in zip(lines.entries, entries, strict=True)] == lines.entries
    some = data.draw(st.lists(st.sampled_from(range(len(entries))), unique=True)) if entries else []
    assert lines.in_order(np.array(some, np.int64)).tolist() == sorted(some, key=lambda line: _bytes(names[line]))
    asked = data.draw(st.sets(st.sampled_from([*names, "a", "\ud800", ""])))
    contents = data.draw(
        st.sets(CONTENTS | st.sampled_from([entry.get("content", "2" * 64) for entry in entries] or ["3"]))
    )
    assert lines.having(asked, contents).tolist() == [
        line for line, entry in enumerate(entries) if entry["name"] in asked or entry.get("content") in contents
    ]


@given(names=st.lists(TEXTS, unique=True, min_size=1, max_size=300), data=st.data())
def test_names_are_sorted_as_python_sorts_their_bytes(names, data):
    """In order but for a few at the end, as after an addition, or not at all."""
    names = sorted(names, key=_bytes)
    at = data.draw(st.integers(0, len(names)))
    names = names[at:] + names[:at] if data.draw(st.booleans()) else data.draw(st.permutations(names))
    lines = Lines(Path(), lines_of({"name": name} for name in names))
    order = lines.in_order(np.arange(len(names)))
    assert list(lines.names(order)) == sorted(names, key=_bytes)


@given(entries=st.lists(ENTRIES, min_size=1, max_size=8, unique_by=lambda entry: entry["name"]), data=st.data())
def test_what_is_removed_is_not_found(entries, data):
    removed = data.draw(st.sets(st.sampled_from(range(len(entries)))))
    state = State(Path(), {}, lines_of(entries), np.array(sorted(removed), np.int32))
    live = [line for line in range(len(entries)) if line not in removed]
    assert state.live.tolist() == live
    assert state.having([entry["name"] for entry in entries]).tolist() == live
    known = [line for line in live if "content" in entries[line]]
    assert state.having((), [entries[line]["content"] for line in known]).tolist() == known
    assert state.having((), [""]).tolist() == []


@pytest.mark.parametrize("removed", [[-1], [3], [7, 1], [[0]], [0.5]])
def test_what_is_removed_has_to_be_there(removed):
    state = State(Path("x"), {}, lines_of({"name": name} for name in "abc"), np.array(removed))
    with pytest.raises(ArtefactError, match=r"3 names and removed\.npy do not go together"):
        assert len(state.live)


@pytest.mark.parametrize(
    "line",
    [b"{}", b'{"name": "a"', b'{"name": "a"\n{"name": "b"}', b'{"name": "a', b'{"name": "a\\', b"[]", b'{"nam": "a"}',
     b"", rb'{"name": "\x"}', rb'{"name": "\ud800"}', b'{"name": "a", "content": 5}', b'{"name": "a", "b": "}',
     rb'{"name": "a", "content": "\ud800"}', b'{"name": "a", "content": "x}', b'{"name": "a"}{"name": "b"}',
     b'{"name": "\t"}',
     b'{"name": "a\n"}', b'{"name": 3}', b'{"name": "\xff"}'],
)  # fmt: skip
@pytest.mark.parametrize("end", [b"\n", b""])
def test_a_line_without_a_name_is_told(line, end):
    lines = Lines(Path("x", "images.jsonl"), b'{"name": "a"}\n' + line + end)
    if line + end == b"":
        assert lines.names(np.arange(len(lines))) == ("a",)
        return
    with pytest.raises(ArtefactError, match=r"x/images\.jsonl cannot be read"):
        lines.in_order(np.arange(len(lines)))
