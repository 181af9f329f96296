"""The worker answers one question at a time; the cache computes each entry once."""

import threading

import pytest

from krepes.app.cache import Cache
from krepes.app.jobs import KEPT, WAITING, Jobs, TooManyError
from krepes.errors import DataError


def ended(jobs: Jobs, name: str, event: threading.Event | None = None) -> dict:
    """A job's end."""
    for _ in range(2000):
        found = jobs.get(name)
        assert found is not None
        if found["state"] in ("done", "failed"):
            return found
        threading.Event().wait(0.005)
    raise AssertionError("the job does not end")


def test_a_question_is_answered():
    jobs = Jobs()
    found = ended(jobs, jobs.add(lambda: 7))
    assert (found["state"], found["result"]) == ("done", 7)


def test_what_krepes_refuses_is_told_in_its_words():
    def ask():
        raise DataError("too few samples")

    jobs = Jobs()
    assert ended(jobs, jobs.add(ask))["error"] == "too few samples"


def test_a_mistake_of_our_own_is_not_told_and_ends_nothing():
    def ask():
        raise RuntimeError("/home/user/secret")

    jobs = Jobs()
    assert "secret" not in ended(jobs, jobs.add(ask))["error"]
    assert ended(jobs, jobs.add(lambda: 1))["state"] == "done"


def test_one_at_a_time_and_not_too_many():
    jobs, go, started, running = Jobs(), threading.Event(), threading.Event(), []

    def ask():
        running.append(1)
        started.set()
        assert len(running) == 1
        go.wait(30)
        running.pop()

    names = [jobs.add(ask)]
    started.wait(30)
    names += [jobs.add(ask) for _ in range(WAITING)]
    with pytest.raises(TooManyError):
        jobs.add(ask)
    assert [jobs.get(name)["state"] for name in names] == ["running"] + ["waiting"] * WAITING  # pyright: ignore[reportOptionalSubscript]
    go.set()
    assert all(ended(jobs, name)["state"] == "done" for name in names)


def test_the_last_answers_are_kept():
    jobs = Jobs()
    names = []
    for i in range(KEPT + 1):
        names.append(jobs.add(lambda i=i: i))
        ended(jobs, names[-1])
    assert jobs.get(names[0]) is None
    assert jobs.get(names[1])["result"] == 1  # pyright: ignore[reportOptionalSubscript]


def test_an_entry_is_made_once_for_all_who_ask_at_the_same_time():
    cache, made, go = Cache(10), [], threading.Event()

    def make():
        made.append(1)
        go.wait(30)
        return "entry"

    found = []
    threads = [threading.Thread(target=lambda: found.append(cache.get("key", make))) for _ in range(8)]
    for thread in threads:
        thread.start()
    go.set()
    for thread in threads:
        thread.join()
    assert found == ["entry"] * 8
    assert len(made) == 1


def test_what_fails_is_asked_again():
    cache = Cache(10)

    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cache.get("key", fail)
    assert cache.get("key", lambda: 1) == 1


def test_the_longest_unused_goes_first():
    cache = Cache(2)
    for key in ("a", "b"):
        cache.get(key, lambda key=key: key)
    cache.get("a", lambda: "again")
    cache.get("c", lambda: "c")
    assert cache.get("a", lambda: "new") == "a"
    assert cache.get("b", lambda: "new") == "new"


def test_what_is_larger_than_all_is_not_kept():
    cache = Cache(3, len)
    assert cache.get("a", lambda: "long text") == "long text"
    assert cache.get("a", lambda: "b") == "b"
