"""What goes to a server in the background: in order, once, and never waited for."""

import threading

from retune.delivery import Delivery


def test_all_arrives_in_order_and_once_though_the_server_was_away(monkeypatch):
    monkeypatch.setattr("retune.delivery.FIRST_PAUSE", 0.01)
    arrived, failures, away = [], [], iter([True, True, False])

    def take(batch):
        if next(away, False):
            raise ConnectionError("away")
        arrived.extend(batch)

    delivery = Delivery(take, failures.append)
    for number in range(50):
        delivery.put(number)
    while not arrived:
        pass
    delivery.put(50)
    assert delivery.finish(60)
    assert arrived == list(range(51))
    assert len(failures) == 1  # told once, not at each attempt


def test_who_puts_does_not_wait_and_who_ends_does_not_wait_for_ever():
    stuck = threading.Event()
    delivery = Delivery(lambda batch: stuck.wait(60))
    for number in range(10_000):
        delivery.put(number)
    assert not delivery.finish(0.05)
    stuck.set()


def test_a_server_that_stays_away_is_asked_once_more_at_the_end(monkeypatch):
    asked = threading.Semaphore(0)

    def take(batch):
        asked.release()
        raise ConnectionError

    delivery = Delivery(take)
    delivery.put("row")
    assert asked.acquire(timeout=60)
    assert not delivery.finish(60)
    assert asked.acquire(timeout=60)
    assert not asked.acquire(blocking=False)
