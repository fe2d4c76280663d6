from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

import pytest

from mltrain.engine.signals import StopSignal


def _send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_only_sets_the_flag(number):
    with StopSignal() as stop:
        assert stop.signum is None
        _send(number)
        assert stop.signum == number
    assert stop.signum == number


def test_the_first_signal_counts():
    with StopSignal() as stop:
        _send(signal.SIGTERM)
        _send(signal.SIGTERM)
        assert stop.signum == signal.SIGTERM


def test_a_second_interrupt_stops_at_once():
    with StopSignal() as stop:
        _send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            _send(signal.SIGINT)
        assert stop.signum == signal.SIGINT


def test_the_earlier_handlers_come_back_even_after_an_error():
    seen = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, lambda *_: seen.append("outer"))
    try:
        with pytest.raises(ZeroDivisionError), StopSignal():
            raise ZeroDivisionError
        _send(signal.SIGTERM)
        assert seen == ["outer"]
        assert signal.getsignal(signal.SIGINT) is before[signal.SIGINT]
    finally:
        signal.signal(signal.SIGTERM, before[signal.SIGTERM])


def test_outside_the_main_thread_it_changes_nothing():
    found = []
    before = signal.getsignal(signal.SIGTERM)

    def work() -> None:
        with StopSignal() as stop:
            found.append((stop.signum, signal.getsignal(signal.SIGTERM) is before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(None, True)]


def _sleep(ready) -> None:
    ready.set()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # forking a process that has threads
def test_a_forked_worker_outlives_an_interrupt_and_ends_when_terminated():
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    with StopSignal() as stop:
        worker = context.Process(target=_sleep, args=(ready,), daemon=True)
        worker.start()
        assert ready.wait(10)
        for _ in range(2):
            os.kill(worker.pid, signal.SIGINT)
            time.sleep(0.1)
        assert worker.is_alive()
        worker.terminate()
        worker.join(10)
        assert worker.exitcode == -signal.SIGTERM
        assert stop.signum is None
