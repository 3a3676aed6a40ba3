"""Every text has one number, whoever asks."""

from concurrent.futures import ThreadPoolExecutor

from storage.numbers import Numbers


def test_a_text_keeps_its_number_and_a_new_one_gets_the_next():
    numbers = Numbers()
    assert numbers.of([]) == []
    assert numbers.of(["a", "b", "a"]) == [0, 1, 0]
    assert numbers.of(["c", "b"]) == [2, 1]
    assert (numbers.get("c"), numbers.get("d"), len(numbers)) == (2, None, 3)
    assert numbers.texts == ["a", "b", "c"]


def test_threads_that_add_at_once_are_given_the_same_numbers():
    numbers = Numbers()
    texts = [str(n) for n in range(20_000)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(numbers.of, [texts, texts[::-1], texts[1::2], texts]))
    assert sorted(found[0]) == list(range(20_000))
    assert found[0] == found[1][::-1] == found[3]
    assert found[2] == found[0][1::2]
    assert [numbers.texts[number] for number in found[0]] == texts
