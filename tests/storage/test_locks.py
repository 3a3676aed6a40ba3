"""Many readers or one writer."""

import threading

from storage.locks import ReadersWriterLock


def run(function):
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def test_readers_share_the_lock():
    lock, meeting = ReadersWriterLock(), threading.Barrier(3)

    def read():
        with lock.reading():
            meeting.wait(10)                                        # breaks unless all three are inside

    threads = [run(read) for _ in range(3)]
    for thread in threads:
        thread.join(10)
    assert not meeting.broken


def test_a_writer_is_alone():
    lock, inside, worst, total = ReadersWriterLock(), [0, 0], [0], [0]

    def write():
        for _ in range(200):
            with lock.writing():
                inside[1] += 1
                worst[0] = max(worst[0], inside[0] + inside[1] - 1)
                total[0] += 1
                inside[1] -= 1

    def read():
        for _ in range(200):
            with lock.reading():
                worst[0] = max(worst[0], inside[1])

    threads = [run(write), run(write), run(read), run(read)]
    for thread in threads:
        thread.join(30)
    assert worst == [0]
    assert total == [400]


def test_a_waiting_writer_goes_before_readers_that_come_later():
    lock, order = ReadersWriterLock(), []

    def write():
        with lock.writing():
            order.append("writer")

    def read():
        with lock.reading():
            order.append("reader")

    with lock.reading():
        writer = run(write)
        while not lock._writers_waiting:
            pass
        reader = run(read)
        reader.join(0.05)
        assert order == []
    writer.join(10)
    reader.join(10)
    assert order == ["writer", "reader"]


def test_readers_that_waited_while_one_wrote_go_before_the_next_writer():
    lock, order = ReadersWriterLock(), []

    def read():
        with lock.reading():
            order.append("reader")

    def write():
        with lock.writing():
            order.append("second writer")

    with lock.writing():
        threads = [run(write)]
        while not lock._writers_waiting:
            pass
        threads += [run(read), run(read)]
        while lock._readers_waiting < 2:
            pass
    for thread in threads:
        thread.join(10)
    assert order == ["reader", "reader", "second writer"]


def test_the_lock_is_free_after_a_fault_inside():
    lock = ReadersWriterLock()
    for enter in (lock.writing, lock.reading):
        try:
            with enter():
                raise KeyError
        except KeyError:
            pass
    with lock.writing():
        pass
