"""The tool that compares rankings on trained states, on made-up scores."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from densenb.evaluation import measured
from densenb.evaluation.ranks import kendall_tau

TOOLS = str(Path(__file__).parents[2] / "experiments")


@pytest.fixture(scope="module")
def ranks():
    sys.path.insert(0, TOOLS)
    try:
        import ranks
    finally:
        sys.path.remove(TOOLS)
    return ranks


def rows(ranks, scores):
    return [
        {"method": name, "mIoU": score, "presence": 90.0}
        for name, score in zip(ranks.asked(), scores, strict=True)
    ]


def test_the_same_order_agrees_and_the_opposite_one_does_not(ranks):
    count = len(ranks.asked())
    rising, falling = list(range(count)), list(range(count, 0, -1))
    states = {"bundled": rows(ranks, rising), "half": rows(ranks, [2 * s + 5 for s in rising])}
    found = ranks.compared(states | {"odd": rows(ranks, falling)})
    for state, tau in (("bundled", 1), ("half", 1), ("odd", -1)):
        assert found[state]["tau_methods"] == pytest.approx(tau)
        assert found[state]["tau_strengths"] == pytest.approx(dict.fromkeys(ranks.STRENGTHS, tau))
    for kind, values in ranks.STRENGTHS.items():
        best = max(values, key=lambda value: rising[ranks.asked().index(values[value])])
        assert found["half"]["best"][kind] == best != found["odd"]["best"][kind]
    assert len(ranks.table(found).splitlines()) == 2 + 3


def test_a_model_that_draws_nothing_has_no_best_strength(ranks):
    some = rows(ranks, range(len(ranks.asked())))
    nothing = rows(ranks, [0.0] * len(ranks.asked()))
    found = ranks.compared({"bundled": some, "untrained": nothing})
    assert set(found["untrained"]["best"].values()) == {None}
    assert ranks.table(found).splitlines()[-1].split()[-1] == "-"


def test_every_setting_that_is_ranked_is_one_of_the_sweep(ranks):
    assert set(ranks.asked()) <= {"stock", *ranks.sweep.ALL}


def test_what_is_missing_is_named(ranks):
    whole = rows(ranks, range(len(ranks.asked())))
    with pytest.raises(ValueError, match="none of .* is 'bundled'"):
        ranks.compared({"half": whole})
    with pytest.raises(ValueError, match="'half' has no scores of .*score it again"):
        ranks.compared({"bundled": whole, "half": whole[1:]})


def test_the_committed_comparison_is_of_these_settings_and_its_page_shows_it(ranks):
    """A setting that has since changed must be scored again."""
    found = measured.table("ranks")
    page = (Path(TOOLS).parent / "docs" / "ranks.md").read_text(encoding="utf-8")
    bundled = found["bundled"]["mIoU"]
    for state, facts in found.items():
        assert list(facts["mIoU"]) == list(ranks.METHODS), state
        tau = kendall_tau(list(facts["mIoU"].values()), list(bundled.values()))
        assert facts["tau_methods"] == pytest.approx(tau), state
    assert ranks.table(found) in page
    for name in ranks.METHODS:
        scores = [f"{facts['mIoU'][name]:.1f}" for facts in found.values()]
        assert f"| {' | '.join([name, *scores])} |" in page
