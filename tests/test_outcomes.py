"""The record of outcomes: it is of the claims as they are, the tool writes it, and the page shows it."""

from dataclasses import replace

import pytest
from docs_script import script

from lazyscope.claims import Outcome
from lazyscope.papers import outcomes
from lazyscope.papers.outcomes import recorded
from lazyscope.papers.registry import FIGURES, SIZES
from lazyscope.papers.reproduce import load
from lazyscope.report import Item

TOOL = script("outcomes")
NAME, SENTENCE = "note-s3.4", "To keep the criterion at a given level alpha ∝ 1/tau^q must hold (plain)."
ITEM = Item(
    name=NAME,
    title="",
    caption="",
    size="quick",
    command=f"lazyscope reproduce {NAME} --size quick",
    findings=[{"sentence": SENTENCE, "outcome": "inconclusive"}],
    settings={},
    numbers=[],
    provenance={},
)


def test_the_record_is_of_the_claims_as_they_are_and_the_page_shows_it():
    known = recorded()
    assert {name: list(rows) for name, rows in known.items()} == {
        name: [claim.sentence for claim in load(name).claims] for name in FIGURES
    }, "run docs/outcomes.py"
    assert TOOL.as_json(known) == outcomes.RECORD.read_text()
    assert TOOL.page(known) == TOOL.PAGE.read_text(), "run docs/outcomes.py"


def test_every_claim_was_measured_at_tiny_and_quick_size_or_says_why_nothing_is_expected():
    for rows in recorded().values():
        for sentence, row in rows.items():
            unsettled = row.get(outcomes.UNSETTLED, {})
            assert {"tiny", "quick"} <= {*row, *unsettled}, sentence
            assert not set(row) & set(unsettled), sentence
            assert all(unsettled.values())
            assert {*row, *unsettled} <= {*SIZES, outcomes.UNSETTLED}
            assert all(Outcome(row[size]) for size in SIZES if size in row)


def test_a_figure_expects_what_is_recorded():
    for claim in load(NAME).claims:
        assert {size: outcome.value for size, outcome in claim.expected.items()} == recorded()[NAME][claim.sentence]


def test_an_outcome_is_taken_from_a_figure_as_it_stands():
    before = recorded()
    after = TOOL.updated(before, [ITEM])
    assert after[NAME][SENTENCE] == before[NAME][SENTENCE] | {"quick": "inconclusive"}
    after[NAME][SENTENCE] = before[NAME][SENTENCE]
    assert after == before


@pytest.mark.parametrize("options", ["--seeds 20", "--set width=16"])
def test_no_outcome_is_taken_from_a_figure_with_other_seeds_or_settings(options):
    assert TOOL.updated(recorded(), [replace(ITEM, command=f"{ITEM.command} {options}")]) == recorded()


def test_what_is_unsettled_stays_so_and_is_shown_with_its_reason():
    row = {"tiny": "holds", outcomes.UNSETTLED: {"quick": "of rounding | noise"}}
    known = recorded() | {NAME: recorded()[NAME] | {SENTENCE: row}}
    assert TOOL.updated(known, [ITEM])[NAME][SENTENCE] == row
    (line,) = [line for line in TOOL.page(known).splitlines() if "of rounding" in line]
    assert line.endswith("| holds | unknown: of rounding \\| noise | unknown |")
