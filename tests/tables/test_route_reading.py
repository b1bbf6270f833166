"""A large table is read back completely, in a time that follows what is there."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenflow.tables import cookies, layout
from xenflow.tables.route_reading import READ_WHOLE, Chunks, Count, Reading, Whole, reading

EXACT_S, LOOK_S, FLOW_S, REQUEST_S, PAUSE_S = 25e-6, 0.12e-6, 8e-6, 30e-6, 2e-3
"""What Open vSwitch 3.1 and the controller take for an exact cookie, for a flow looked at, for one
read and for a request; and the pause behind each question."""


class Table:
    """How many flows there are by each cookie; what a reading costs."""

    def __init__(self, routes: dict[int, int], foreign: int = 0) -> None:
        self.flows = Counter(
            cookies.of(layout.ROUTES, router, cookies.route_chunk(net))
            for router, count in routes.items()
            for net in range(count)
        )
        self.flows[cookies.of(layout.CLASSES)] = 1
        self.total = sum(self.flows.values()) + foreign
        self.read: Counter[int] = Counter()
        self.questions = 0
        self.cost_s = 0.0
        self.largest = 0

    def run(self, questions: Reading) -> None:
        """Answer the questions until there are no more."""
        try:
            question = next(questions)
            while True:
                question = questions.send(self.answer(question))
        except StopIteration:
            return

    def answer(self, question: Whole | Chunks | Count) -> int:
        self.questions += 1
        self.cost_s += PAUSE_S
        if isinstance(question, Chunks):
            found = {c: self.flows[c] for c in question.cookies}
            self.cost_s += len(question.cookies) * (EXACT_S + REQUEST_S)
        else:
            found = {
                c: n
                for c, n in self.flows.items()
                if c & question.mask == question.cookie & question.mask
            }
            self.cost_s += self.total * LOOK_S + REQUEST_S
        count = sum(found.values())
        if not isinstance(question, Count):
            self.read.update({c: n for c, n in found.items() if n})
            self.largest = max(self.largest, count)
            self.cost_s += count * FLOW_S
        return count


def read_of(routes: dict[int, int], likely: set[int], foreign: int = 0) -> Table:
    """The table after it was read."""
    table = Table(routes, foreign)
    table.run(reading(table.total, likely))
    return table


@given(
    st.dictionaries(st.integers(1, 0xFFFF), st.sampled_from((0, 1, 30, 3000, 9000)), max_size=5),
    st.sets(st.integers(1, 0xFFFF), max_size=4),
    st.data(),
)
def test_everything_of_ours_is_read_once(
    routes: dict[int, int], others: set[int], data: st.DataObject
) -> None:
    known = data.draw(st.sets(st.sampled_from(sorted(routes)))) if routes else set()
    foreign = data.draw(st.sampled_from((0, 7, 5000)))
    table = read_of(routes, known | others, foreign)
    assert table.read == +table.flows
    assert table.largest <= READ_WHOLE


@pytest.mark.parametrize("present", [{1: 5000}, {1: 5000, 90: 40}, {7: 200_000}])
def test_routers_that_are_not_there_cost_nothing(present: dict[int, int]) -> None:
    table = read_of(present, set(present))
    assert table.read == +table.flows
    assert table.cost_s < 0.2 + 3 * table.total * FLOW_S


@pytest.mark.parametrize(
    "routes",
    [dict.fromkeys(range(1, 101), 100), dict.fromkeys(range(1, 101), 3000), {5: 300_000}],
)
def test_the_time_follows_what_is_there(routes: dict[int, int]) -> None:
    table = read_of(routes, set(routes))
    assert table.read == +table.flows
    assert table.cost_s < 1.0 + 4 * table.total * FLOW_S


def test_a_router_whose_next_hops_are_gone_is_found() -> None:
    table = read_of({3: 20_000, 40_000: 17}, {3})
    assert table.read == +table.flows
    assert table.questions < 100
