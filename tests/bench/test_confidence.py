"""Mean and interval: against values computed by hand and the properties of the distribution."""

from __future__ import annotations

import pytest

from bench.experiments.confidence import estimate, t_975


def test_interval_of_ten_runs_by_hand() -> None:
    # mean 5.5, standard deviation 3.02765, t(9) = 2.262: 2.262 * 3.02765 / sqrt(10) = 2.16570
    found = estimate([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    assert found.mean == 5.5
    assert found.half == pytest.approx(2.1657, abs=1e-4)
    assert (found.runs, found.least, found.most) == (10, 1, 10)


def test_two_runs_use_one_degree_of_freedom() -> None:
    # standard deviation sqrt(2) * 0.5, over sqrt(2): 0.5
    assert estimate([1.0, 2.0]).half == pytest.approx(12.706 * 0.5)


def test_a_single_run_has_no_interval() -> None:
    found = estimate([3.0])
    assert found.half is None
    assert found.text() == "3.00 (one run)"


def test_equal_runs_have_an_empty_interval() -> None:
    assert estimate([2.0] * 10).text(1) == "2.0 ± 0.0"


def test_quantile_falls_with_every_degree_of_freedom_and_stays_above_the_normal_one() -> None:
    found = [t_975(freedom) for freedom in range(1, 200)]
    assert found == sorted(found, reverse=True)
    assert found[-1] >= 1.960
    assert t_975(35) == t_975(30), "between the table's lines the wider interval"


def test_no_runs_are_no_estimate() -> None:
    with pytest.raises(ValueError, match="0 degrees"):
        t_975(0)
