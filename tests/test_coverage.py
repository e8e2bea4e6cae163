"""`docs/coverage.md`: what it names is there, and no sentence is left without a claim, a test or a reason."""

import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from lazyscope.papers.registry import FIGURES
from lazyscope.papers.reproduce import load

ROOT = Path(__file__).parents[1]
CLAIM = re.compile(r'`([\w.-]+)`: "([^"]*)"')
TEST = re.compile(r"`(tests/\w+\.py)::(\w+)`")
HEAD = ["#", "§", "kind", "the note says", "claim or test", "grade", "remark"]


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split(" | ")]


LINES = [line for line in (ROOT / "docs" / "coverage.md").read_text().splitlines() if line.startswith("|")]
ROWS = [cells(line.replace("|  |", "| \u200b |")) for line in LINES[2:]]  # an empty cell stays one


@cache
def functions(file):
    return set(re.findall(r"^def (test_\w+)\(", (ROOT / file).read_text(), re.MULTILINE))


def test_it_is_one_table_with_a_row_for_each_of_the_109_sentences():
    assert cells(LINES[0]) == HEAD
    assert all(len(row) == len(HEAD) for row in ROWS)
    expected = [*map(str, range(1, 57)), "57a", "57b", *map(str, range(58, 109))]
    assert [row[0] for row in ROWS] == expected


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_what_a_row_names_is_there(row):
    named, grade, remark = row[4], row[5], row[6].strip(" \u200b")
    claims, tests = CLAIM.findall(named), TEST.findall(named)
    for figure, sentence in claims:
        assert figure in FIGURES, f"no figure {figure}"
        assert sentence in {claim.sentence for claim in load(figure).claims}, f"{figure} has no claim {sentence!r}"
    for file, function in tests:
        assert function in functions(file), f"{file} has no {function}"
    rest = TEST.sub("", CLAIM.sub("", named)).strip(" ;\u200b")
    assert not rest, f"neither a claim nor a test: {rest!r}"
    assert grade in ("covered", "in part", "not testable")
    assert bool(claims or tests) == (grade != "not testable")
    assert remark or grade == "covered", "in part and not testable need a reason"


def test_sentences_of_a_figure_differ():
    for name in FIGURES:
        twice = [sentence for sentence, n in Counter(claim.sentence for claim in load(name).claims).items() if n > 1]
        assert not twice, (name, twice)
