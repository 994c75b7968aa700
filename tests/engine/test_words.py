"""What programs said, made safe to print and short."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ensemble.engine.words import (
    MAX_DETAIL,
    MAX_LINES,
    MAX_WORDS,
    bounded,
    detail_of,
    last_words,
    one_line,
    printable,
)

#: Texts that look much like what programs do to a terminal.
scraps = st.lists(
    st.one_of(
        st.sampled_from(["\x1b[31m", "\x1b]0;title\x07", "\x1b", "\x9b2J", "\r", "\n", "\0", "\b"]),
        st.sampled_from(["\u202e", "\ud800", "\u2028", "\t", "error", " ", "é", "数"]),
        st.text(max_size=5),
    ),
    max_size=30,
).map("".join)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("\x1b[1;31merror:\x1b[0m no licence", "error: no licence"),
        ("\x1b]0;a title\x07done", "done"),
        ("\x1b]0;a title without an end\nthe cause", "\nthe cause"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        (" 10%\r 50%\r100%", "100%"),
        ("dos line\r\nnext\r\n", "dos line\nnext\n"),
        ("\r\r", ""),
        ("a\tb", "a b"),
        ("a\0b\x07", "a\ufffdb\ufffd"),
        ("evil \u202etxt", "evil \ufffdtxt"),
        ("lone \ud800", "lone \ufffd"),
        ("Grüße, 数, naïve", "Grüße, 数, naïve"),
    ],
)
def test_what_a_terminal_would_obey_is_not_printed(written: str, shown: str) -> None:
    assert printable(written) == shown


@given(scraps)
def test_nothing_but_line_ends_controls_a_terminal(text: str) -> None:
    assert all(line.isprintable() for line in printable(text).split("\n"))
    assert one_line(text).isprintable()
    detail_of(text).encode()  # no lone surrogate is left


@given(scraps, st.integers(3, 60))
def test_texts_keep_to_their_width_with_beginning_and_end(text: str, width: int) -> None:
    assert len(one_line(text, width)) <= width
    short = bounded(text, width)
    assert len(short) == min(len(text), width)
    assert short[0:1] == text[0:1]
    assert short[-1:] == text[-1:]


def test_a_message_of_megabytes_costs_no_time_and_no_room() -> None:
    text = "ValueError: " + "\x1b[1m9, " * 1_000_000 + "\nin row 7"
    assert len(detail_of(text)) <= MAX_DETAIL
    assert one_line(text, 60).startswith("ValueError: 9,")
    assert one_line(text, 60).endswith("in row 7")


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (b"", ""),
        (b"\n  \n\r\n", ""),
        (b"No space left on device\n", "No space left on device"),
        (b"no end of line", "no end of line"),
        (b"step 1\nERROR\n\n \n", "step 1\nERROR"),
        (b" 5%\r80%\nsrun: fatal: no node\r\n", "80%\nsrun: fatal: no node"),
        (b"caf\xe9 closed\n", "caf\ufffd closed"),
    ],
)
def test_last_words_are_the_last_lines_that_are_not_blank(output: bytes, words: str) -> None:
    assert last_words(output) == words


def test_last_words_are_as_many_lines_as_fit() -> None:
    many = "".join(f"step {n}\n" for n in range(100)).encode()
    assert last_words(many).split("\n") == [f"step {n}" for n in range(100 - MAX_LINES, 100)]
    assert last_words(many, max_lines=1) == "step 99"
    long = ("x" * 900 + "\n").encode() * 3 + b"the end\n"
    assert last_words(long) == "x" * 900 + "\nthe end"
    endless = b"a" * 5_000 + b"z"
    assert len(last_words(endless)) == MAX_WORDS
    assert last_words(endless).endswith("z")


@given(st.binary(max_size=3000))
def test_last_words_are_bounded_and_printable_whatever_was_written(output: bytes) -> None:
    words = last_words(output)
    assert len(words) <= MAX_WORDS
    assert len(words.split("\n")) <= MAX_LINES
    assert all(line.isprintable() and line.strip() == line for line in words.split("\n"))
