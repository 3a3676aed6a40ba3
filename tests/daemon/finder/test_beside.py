import threading
from functools import partial

import pytest
from test_haste import needs_right

from daemon.finder.beside import Beside
from daemon.finder.haste import Haste, Urgency


def test_all_calls_are_answered_in_their_order_with_and_without_helpers():
    calls = [partial(str, number) for number in range(5)]
    for helpers in (0, 1, 3):
        beside = Beside(helpers)
        assert beside.all_of(calls) == ["0", "1", "2", "3", "4"]
        assert beside.all_of(calls[:1]) == ["0"]
        assert beside.all_of([]) == []


def test_a_second_call_is_made_while_the_first_goes_on():
    met = threading.Barrier(2)
    places = Beside(1).all_of([met.wait, met.wait])
    assert sorted(places) == [0, 1]


def test_a_call_that_no_helper_has_begun_is_made_in_the_asking_thread():
    beside, busy, go_on = Beside(1), threading.Event(), threading.Event()

    def hold() -> None:
        busy.set()
        go_on.wait()

    other = threading.Thread(target=beside.all_of, args=([busy.wait, hold],))
    other.start()
    busy.wait()
    here = threading.get_ident()
    assert beside.all_of([threading.get_ident, threading.get_ident]) == [here, here]
    go_on.set()
    other.join()


def test_what_goes_wrong_in_a_helper_goes_wrong_in_the_asking_thread():
    met = threading.Barrier(2)

    def fail() -> None:
        met.wait()
        raise KeyError

    with pytest.raises(KeyError):
        Beside(1).all_of([met.wait, fail])


@needs_right
def test_a_helper_is_in_haste_while_it_helps_one_who_is_and_not_longer():
    met, beside, usual = threading.Barrier(2), Beside(1), Urgency.of_this_thread()

    def urgency() -> Urgency:
        met.wait()
        return Urgency.of_this_thread()

    haste = Haste()
    with haste.hastened():                          # starts the helper
        hasty = Urgency.of_this_thread()
        assert beside.all_of([urgency, urgency]) == [hasty, hasty] != [usual, usual]
    haste.usual()
    assert beside.all_of([urgency, urgency]) == [usual, usual]
