"""What an endpoint was paid for is kept: budgets of tokens and money, the store of replies, and kills."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from datetime import date
from decimal import Decimal
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from nightmarket import llm
from nightmarket.llm import Prices, Reply
from tests.faulty_endpoint import says, serve, stalls
from tests.test_llm_endpoint import ask, failure, only, stored, writer


def test_when_the_budget_is_spent_no_call_begins_and_the_store_still_answers(tmp_path: Path) -> None:
    with serve(says()) as server:
        generator = writer(server, tokens_per_run=30, concurrency=1, store=tmp_path / "replies.sqlite")
        outcomes = generator.attempt([ask(str(n)) for n in range(6)])
        # 12 tokens a call: 24 are below 30, 36 are not.
        assert [isinstance(outcome, Reply) for outcome in outcomes] == [True] * 3 + [False] * 3
        assert {failure(outcome).kind for outcome in outcomes[3:]} == {"budget"}
        assert isinstance(only(generator, ask("1")), Reply)
        assert server.calls == 3 and generator.spent.tokens == 36


# Money: 10 tokens in and 2 out a call, at 0.10 and 0.25 for a thousand, are 0.0015 a call.
PRICES = Prices(Decimal(100), Decimal(250), "GBP")


def test_what_tokens_cost_is_exact_and_nothing_without_prices() -> None:
    dear = Prices(Decimal("0.15"), Decimal("0.60"))
    assert dear.cost(1_000_000, 1_000_000) == Decimal("0.75") and dear.cost(1, 0) == Decimal("0.00000015")
    # Three tenths are three tenths; as floating-point numbers they are more.
    assert sum([Prices(Decimal(100_000)).cost(1, 0)] * 3) == Decimal("0.3")
    assert dear.less(Decimal("0.5")).cost(0, 2_000_000) == Decimal("0.60")
    assert Prices().are_none and Prices().cost(9, 9) == 0
    assert PRICES.told(Decimal("0.0015")) == "0.0015 GBP"


def test_when_the_nights_money_is_spent_no_call_begins_and_the_store_still_answers(tmp_path: Path) -> None:
    with serve(says()) as server:
        generator = writer(
            server,
            prices=PRICES,
            cost_per_night=Decimal("0.0030"),
            concurrency=1,
            store=tmp_path / "r.sqlite",
        )
        outcomes = generator.attempt([ask(str(n)) for n in range(4)])
        assert [isinstance(outcome, Reply) for outcome in outcomes] == [True, True, False, False]
        assert {failure(outcome).kind for outcome in outcomes[2:]} == {"cost"}
        assert failure(outcomes[2]).reason.endswith("0.0030 GBP of the night's 0.0030 GBP are spent")
        assert isinstance(only(generator, ask("1")), Reply)
        assert (server.calls, generator.spent.cost) == (2, Decimal("0.0030"))
        assert str(generator.spent) == "2 calls (0 again), 2 failed, 20 + 4 tokens, 0.0030 GBP"


def test_a_second_try_of_a_night_has_what_the_first_has_left_and_another_night_has_all(
    tmp_path: Path,
) -> None:
    night, next_night = date(2026, 3, 2), date(2026, 3, 3)
    money = {
        "prices": PRICES,
        "cost_per_night": Decimal("0.0030"),
        "concurrency": 1,
        "store": tmp_path / "r.sqlite",
    }
    with serve(says()) as server:
        [first] = writer(server, night=night, **money).attempt([ask("a")])
        assert isinstance(first, Reply) and (first.earlier, first.tonight) == ((0, 0), (10, 2))
        again = writer(server, night=night, **money).attempt([ask("a"), ask("b"), ask("a"), ask("c")])
        assert [o.tonight if isinstance(o, Reply) else o.kind for o in again] == [
            (10, 2),
            (10, 2),
            (0, 0),
            "cost",
        ]
        assert isinstance(again[0], Reply) and (again[0].tokens_in, again[0].cached) == (0, True)
        later = writer(server, night=next_night, **money).attempt([ask(name) for name in "abcde"])
        assert [o.tonight if isinstance(o, Reply) else o.kind for o in later] == [
            (0, 0), (0, 0), (10, 2), (10, 2), "cost",
        ]  # fmt: skip
        assert server.calls == 4


def test_a_store_of_an_earlier_release_goes_on_and_its_replies_cost_nothing(tmp_path: Path) -> None:
    store = tmp_path / "replies.sqlite"
    with sqlite3.connect(store) as connection:
        connection.execute(
            "create table replies (digest text primary key, model text not null, text text not null, "
            "tokens_in integer not null, tokens_out integer not null, finish_reason text not null)"
        )
        key = llm.digest("tiny", ask("a"))
        connection.execute("insert into replies values (?, 'tiny', 'Old.', 10, 2, 'stop')", [key])
    with serve(says()) as server:
        generator = writer(server, store=store, night=date(2026, 3, 2), prices=PRICES)
        old, new = generator.generate([ask("a"), ask("b")])
    assert (old.text, old.tonight, new.tonight, server.calls) == ("Old.", (0, 0), (10, 2), 1)


def test_tokens_of_replies_that_were_no_good_are_spent_too() -> None:
    with serve(says("Meet", finish="content_filter"), stalls("Meet it."), says("Meet it.")) as server:
        generator = writer(server, stall_s=0.3)
        assert isinstance(only(generator), Reply)
    # 11 told; 9 + 3 estimated of what was heard before the stall; 11 told.
    assert (generator.spent.tokens_in, generator.spent.tokens_out) == (10 + 9 + 10, 1 + 3 + 1)


# Nothing is bought twice


def test_a_stored_reply_is_not_asked_for_and_costs_nothing(tmp_path: Path) -> None:
    store = tmp_path / "replies.sqlite"
    with serve(says()) as server:
        bought = only(writer(server, store=store))
        again = only(writer(server, store=store, url="http://localhost:9/v1", key=None))
        assert isinstance(bought, Reply) and server.calls == 1
    assert again == Reply(bought.text, 0, 0, "stop", cached=True, size=2)


def test_another_model_or_revision_is_asked_anew(tmp_path: Path) -> None:
    store = tmp_path / "replies.sqlite"
    with serve(says()) as server:
        writers = [
            writer(server, store=store), writer(server, store=store, model="other"),
            writer(server, store=store, revision="2"), writer(server, store=store, revision="2"),
        ]  # fmt: skip
        for generator in writers:
            generator.generate([ask()])
        assert [generator.version for generator in writers] == ["tiny", "other", "tiny@2", "tiny@2"]
        assert server.calls == 3


def test_a_request_that_occurs_twice_is_paid_for_once() -> None:
    with serve(says()) as server:
        first, other, second = writer(server).generate([ask("a"), ask("b"), ask("a")])
    assert server.calls == 2 and (first.tokens_in, second.tokens_in) == (10, 0)
    assert (first.text, other.text, second.text, second.cached) == ("re: a", "re: b", "re: a", True)


def test_after_a_crash_only_what_is_missing_is_bought(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "replies.sqlite"
    requests = [ask(str(n)) for n in range(8)]
    with serve(says()) as server:
        crashing = writer(server, store=store, concurrency=2)
        keep, kept = crashing._store.keep, []  # type: ignore[union-attr]

        def crash(*reply: Any) -> None:
            if len(kept) == 3:
                raise OSError("no space left")
            kept.append(keep(*reply))

        monkeypatch.setattr(crashing._store, "keep", crash)
        with pytest.raises(ExceptionGroup):
            crashing.attempt(requests)
        have, calls = len(stored(store)), server.calls
        assert have == 3
        replies = writer(server, store=store).generate(requests)
        assert [reply.text for reply in replies] == [f"re: {n}" for n in range(8)]
        assert sum(reply.cached for reply in replies) == 3 and server.calls - calls == 5


def test_a_killed_process_leaves_its_whole_replies_and_no_half_one(tmp_path: Path) -> None:
    store = tmp_path / "replies.sqlite"
    with serve(says(), says(), stalls("half a ", seconds=20)) as server:
        program = (
            "from nightmarket.llm import EndpointGenerator, Message, Request\n"
            "from pathlib import Path\n"
            f"writer = EndpointGenerator(url={server.url!r}, model='tiny', store=Path({str(store)!r}), concurrency=3)\n"
            "m = Message('system', 'You are brief.')\n"
            "writer.attempt([Request((m, Message('user', str(n)))) for n in range(4)])\n"
        )
        with subprocess.Popen([sys.executable, "-c", program]) as process:
            until = time.monotonic() + 12
            while (server.calls < 4 or len(stored(store)) < 2) and time.monotonic() < until:
                time.sleep(0.02)
            process.kill()
        calls = server.calls
        assert calls == 4 and len(stored(store)) == 2
        server.script = [says()]
        replies = writer(server, store=store).generate([ask(str(n)) for n in range(4)])
        assert server.calls - calls == 2 and [reply.text for reply in replies] == [
            f"re: {n}" for n in range(4)
        ]


def test_a_signal_ends_the_calls_at_once_and_keeps_what_was_whole(tmp_path: Path) -> None:
    class StopNow(BaseException):
        pass

    def stop(number: int, frame: FrameType | None) -> None:
        raise StopNow

    store = tmp_path / "replies.sqlite"
    before = signal.signal(signal.SIGALRM, stop)
    try:
        with serve(says(), stalls("half a ", seconds=9)) as server:
            generator = writer(server, store=store, timeout_s=9, stall_s=9)
            began = time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, 1.0)
            with pytest.raises(StopNow):
                generator.attempt([ask(str(n)) for n in range(3)])
            assert time.monotonic() - began < 4
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(stored(store)) == 1
