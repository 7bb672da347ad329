"""Parts of an index and the workers that have them: who takes over, when some are lost or hang."""

import asyncio

import pytest

pytest.importorskip("distributed")

from retrieval.errors import ClusterError
from retrieval.running.questions import WorkerLostError
from retrieval.search import homes as homes_module
from retrieval.search.homes import Homes

FOREVER = 1e6  # seconds


class Workers:
    """Answers as `Questions` does: some hang, some have gone, and some do not know the program."""

    def __init__(self, *there):
        self.here, self.hung, self.strangers = list(there), set(), set()

    async def there(self):
        return sorted(self.here)

    async def ask(self, worker, function, *arguments):
        if worker not in self.here:
            raise WorkerLostError(worker)
        if worker in self.strangers:
            raise ClusterError(f"{worker} is a stranger")
        while worker in self.hung:
            await asyncio.sleep(0.01)
        return function


async def search(homes, workers, parts, patience=FOREVER):
    """What is missing, of a search that gives up on who hangs, and where nobody is found to ask."""

    async def asked(part):
        try:
            worker = await asyncio.wait_for(homes.of(part), patience)
        except TimeoutError:
            homes.unanswered(part)
            return part
        if worker in workers.hung:
            homes.unanswered(part)
            return part
        homes.answered(part, worker)
        return None

    return {part for part in await asyncio.gather(*map(asked, range(parts))) if part is not None}


def of(workers, *with_parts, late=(), wait=0.2):
    return Homes(workers, with_parts, late, wait, "the scheduler")


def test_what_hung_workers_have_goes_to_those_that_do_not():
    """Those that hang have no part any more then, the fewest of all, and get none."""

    async def run():
        workers = Workers("a1", "a2", "b1", "b2")
        homes = of(workers, "a1", "b1", "a2", "b2")
        assert await search(homes, workers, 4) == set()
        workers.hung = {"a1", "a2"}
        assert await search(homes, workers, 4) == {0, 2}
        for _ in range(3):
            assert await search(homes, workers, 4) == set()
            assert sorted(homes.workers) == ["b1", "b1", "b2", "b2"]
        workers.here.remove("b1")  # what it has goes to b2, and not to one that hangs
        assert {await homes.instead(part, "b1") for part, has in enumerate(homes.workers) if has == "b1"} == {"b2"}

    asyncio.run(run())


def test_a_slow_worker_keeps_its_part():
    async def run():
        workers = Workers("a", "b")
        homes = of(workers, "a", "b")
        homes.unanswered(0)
        assert await homes.of(0) == "a"

    asyncio.run(run())


def test_several_searches_at_once_move_a_part_once(monkeypatch):
    async def run():
        workers = Workers("a", "b")
        homes = of(workers, "a", "b", wait=1.0)
        workers.hung = {"a"}
        assert await search(homes, workers, 2) == {0}

        async def later(seconds):
            await asyncio.sleep(seconds)
            return await search(homes, workers, 2)

        assert await asyncio.gather(*(later(seconds) for seconds in (0.0, 0.1, 0.2))) == [set()] * 3
        assert homes.workers == ("b", "b")

    asyncio.run(run())


@pytest.mark.parametrize("wait", [10.0, None])
def test_one_that_was_late_is_better_than_none(wait, monkeypatch):
    """After a quarter of the time that a step has: a worker that is started in the lost one's place is better still."""
    now, begins, yields = [0.0], FOREVER, asyncio.sleep

    async def sleep(seconds):
        now[0] += seconds
        await yields(0)

    monkeypatch.setattr(homes_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(homes_module.asyncio, "sleep", sleep)

    class Started(Workers):
        async def there(self):
            return sorted([*self.here, *(["c"] if now[0] > begins else [])])

    for when, expected, seconds in ((FOREVER, "a", (wait or 40.0) / 4), (1.0, "c", 1.0)):
        now[0], begins, workers = 0.0, when, Started("a")
        homes = of(workers, "b", late=["a"], wait=wait)
        assert asyncio.run(homes.instead(0, "b")) == expected
        assert seconds <= now[0] <= seconds + 0.5


def test_who_hangs_keeps_a_part_where_there_is_nobody_else(monkeypatch):
    async def run():
        workers = Workers("a")
        homes = of(workers, "a")
        workers.hung = {"a"}
        assert await search(homes, workers, 1) == {0}
        assert await search(homes, workers, 1, patience=0.5) == {0}
        workers.hung = set()
        assert await search(homes, workers, 1) == set()
        assert homes.workers == ("a",)

    asyncio.run(run())


@pytest.mark.parametrize("comes", ["a", "b", "c"])
def test_no_part_is_given_to_who_hangs(comes):
    """Neither to another than the lost one, nor back to that: somebody comes, or hears again, in the end."""

    async def run():
        workers = Workers("a", "b")
        homes = of(workers, "a", late=["b"])
        workers.hung = {"a", "b"}
        moved = asyncio.ensure_future(homes.instead(0, "a"))
        await asyncio.sleep(1.0)  # many times what it waits for each
        assert not moved.done()
        workers.hung.discard(comes)
        workers.here = sorted({*workers.here, comes})
        assert await moved == comes
        assert homes.workers == (comes,)

    asyncio.run(run())


@pytest.mark.parametrize("late", ["b", "c"])
def test_who_was_late_and_hears_takes_over_within_a_step(late):
    """While one that hangs, too, is asked in vain."""

    async def run():
        workers = Workers("a", "b", "c")
        homes = of(workers, "a", late=["b", "c"], wait=2.0)
        workers.hung = {"a", "b", "c"} - {late}
        homes.unanswered(0)
        assert await asyncio.wait_for(homes.of(0), 2.0) == late

    asyncio.run(run())


def test_who_is_not_fit_for_it_counts_where_there_is_nobody_else():
    async def run():
        workers = Workers("b", "c")
        workers.strangers = {"b"}
        assert await of(workers, "a", late=["b", "c"]).instead(0, "a") == "c"
        workers.strangers = {"b", "c"}
        with pytest.raises(ClusterError, match="b is a stranger"):
            await of(workers, "a", late=["b", "c"]).instead(0, "a")

    asyncio.run(run())


def test_a_search_waits_for_a_worker_where_there_is_none(monkeypatch, caplog):
    monkeypatch.setattr(homes_module, "_LOOKED", 0.01)
    monkeypatch.setattr(homes_module, "_NOBODY", 0.0)

    async def run():
        workers = Workers()
        homes = of(workers, "a", wait=None)
        moved = asyncio.ensure_future(homes.instead(0, "a"))
        while not caplog.text:
            await asyncio.sleep(0.01)
        assert not moved.done()
        workers.here.append("b")
        assert await moved == "b"

    asyncio.run(run())
    assert "the scheduler has no worker that answers: searches go on when there is one" in caplog.text
