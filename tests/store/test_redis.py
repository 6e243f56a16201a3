"""The server: unreachable, hung, locked, gone and back. Times are generous to a loaded machine, and far from redis-py's defaults of 4.6 s
for a refused port and 58 s for a hung server."""

import asyncio
import contextlib
import gc
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from store import Event, EventLog, Store, StoreError, open_store
from store.redis import COMMANDS, RedisStore
from tests.conftest import unused_port
from tests.redis_server import RedisServer, running_redis
from tests.store.conftest import use

SECRET = "pa55word"
pytestmark = pytest.mark.redis


@pytest.fixture
def mortal_server() -> Iterator[RedisServer]:
    """A server for one test, which may kill it."""
    yield from running_redis()


@pytest.fixture
def guarded_server() -> Iterator[RedisServer]:
    """A server with a password and a user who may only read."""
    yield from running_redis("--requirepass", SECRET, "--user", "reader", "on", f">{SECRET}2", "~*", "+@read")


@pytest.fixture
def hung_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@contextlib.contextmanager
def replying(reply: bytes, *, once: bool = False) -> Iterator[int]:
    """A port whose server answers everything with the same bytes, or the first thing of a connection, which it then closes."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # shut down
                return
            with connection, contextlib.suppress(ConnectionError):  # a client that does not stay for all of it
                while connection.recv(65536):
                    connection.sendall(reply)
                    if once:
                        break

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_what_it_writes_lies_in_its_namespace(redis_server: RedisServer) -> None:
    import redis

    name = uuid.uuid4().hex

    async def body(store: Store) -> None:
        await store.put("a:b", b"1")
        await store.add("n", {"f": 2**53 - 1, "g": -0})
        await store.check()

    use(open_store(redis_server.url, namespace=name), body)
    with redis.Redis(port=redis_server.port) as client:
        client.delete(f"{name}:check")
        assert sorted(client.keys(f"*{name}*")) == [f"{name}:account:n".encode(), f"{name}:value:a:b".encode()]
        assert client.get(f"{name}:value:a:b") == b"1"
        assert client.hgetall(f"{name}:account:n") == {b"f": b"9007199254740991", b"g": b"0"}
    assert use(open_store(redis_server.url, namespace=f"{name}x"), lambda store: store.get("a:b")) is None


def test_over_a_socket_file_and_in_another_database(redis_server: RedisServer) -> None:
    name = uuid.uuid4().hex
    urls = [f"unix://{redis_server.socket_file}?db=3", f"redis://127.0.0.1:{redis_server.port}/3"]
    use(open_store(urls[0], namespace=name), lambda store: store.put("a", b"1"))
    assert use(open_store(urls[1], namespace=name), lambda store: store.get("a")) == b"1"
    assert use(open_store(redis_server.url, namespace=name), lambda store: store.get("a")) is None


def failure(store: Store) -> str:
    """What a store says of itself, the same for every call."""

    async def body(store: Store) -> str:
        said = set()
        for call in (store.check(), store.get("a"), store.put("a", b"1"), store.delete("a"), store.totals("a"), store.add("a", {"n": 1})):
            with pytest.raises(StoreError) as caught:
                await call
            said.add(str(caught.value))
        (text,) = said
        assert SECRET not in text
        assert "\n" not in text
        return text

    return use(store, body)


def test_a_refused_port_is_told_at_once() -> None:
    port = unused_port()
    started = time.monotonic()
    text = failure(open_store(f"redis://user:{SECRET}@127.0.0.1:{port}/0"))
    assert time.monotonic() - started < 6 * 0.5
    assert text.startswith(f"redis://127.0.0.1:{port}/0 cannot be reached; is the server running, is the address right? (Error 111")


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_a_hung_server_is_given_up_in_half_a_second(hung_port: int, scheme: str) -> None:
    store = open_store(f"{scheme}://user:{SECRET}@127.0.0.1:{hung_port}/0")

    async def body(store: Store) -> list[Any]:
        calls = (store.check(), store.add("a", {"n": 1}), store.get("a"))
        return list(await asyncio.gather(*calls, return_exceptions=True))

    started = time.monotonic()
    told = {str(error) for error in use(store, body) if isinstance(error, StoreError)}
    assert 0.4 < time.monotonic() - started < 4
    assert told == {f"{scheme}://127.0.0.1:{hung_port}/0 does not answer; is the server stuck, is it far away? (nothing within 0.5 s)"}
    gc.collect()


def test_calls_that_were_given_up_hold_no_connection(hung_port: int) -> None:
    async def body(store: Store) -> set[str]:
        rounds = [await asyncio.gather(*(store.get("a") for _ in range(30)), return_exceptions=True) for _ in range(4)]
        return {str(error) for errors in rounds for error in errors}

    (told,) = use(open_store(f"redis://127.0.0.1:{hung_port}", timeout_s=0.02), body)
    assert told.endswith("(nothing within 0.02 s)")


def test_a_server_that_stops_answering_is_given_up_and_taken_back(mortal_server: RedisServer) -> None:
    import redis

    async def body(store: Store) -> None:
        await store.put("a", b"1")
        with redis.Redis(port=mortal_server.port) as client:
            client.execute_command("CLIENT", "PAUSE", "3000")
        answers_again = time.monotonic() + 3.1
        for _ in range(2):
            with pytest.raises(StoreError, match=r"nothing within 0\.2 s"):
                await store.get("a")
        await asyncio.sleep(answers_again - time.monotonic())
        # A connection whose reply was not waited for must not give that reply to the next command.
        assert await store.get_many(["b", "a"]) == [None, b"1"]

    use(open_store(mortal_server.url, timeout_s=0.2), body)


def test_time_in_which_our_own_loop_stood_still_is_not_the_servers(redis_server: RedisServer) -> None:
    async def body(store: Store, rounds: int) -> None:
        asking = asyncio.create_task(store.add(uuid.uuid4().hex, {"n": 1}))
        for _ in range(rounds):
            await asyncio.sleep(0)
        assert not asking.done()
        time.sleep(0.25)  # noqa: ASYNC251
        assert await asking == {"n": 1}

    for rounds in (1, 3, 5):  # before it connects, while it does, before it sends
        use(open_store(redis_server.url, timeout_s=0.2), partial(body, rounds=rounds))


def test_a_server_that_died_and_came_back_needs_no_new_store(mortal_server: RedisServer) -> None:
    async def body(store: Store) -> None:
        await asyncio.gather(*(store.put(str(i), b"1") for i in range(5)))
        mortal_server.kill()
        mortal_server.start()
        assert await store.add("n", {"f": 1}) == {"f": 1}, "the very first call finds the new server"
        mortal_server.kill()
        with pytest.raises(StoreError, match="cannot be reached"):
            await store.get("1")
        mortal_server.start()
        await store.put("a", b"2")
        assert await store.get_many(["1", "a"]) == [None, b"2"]

    use(open_store(mortal_server.url, timeout_s=5), body)
    gc.collect()


def test_passwords_and_permissions(guarded_server: RedisServer) -> None:
    shown, at = guarded_server.url, f"127.0.0.1:{guarded_server.port}/0"
    assert failure(open_store(shown)) == (
        f"{shown} wants a password; write it into the URL as redis://:PASSWORD@HOST (Authentication required.)"
    )
    for login in (f":{SECRET}x", f"nobody:{SECRET}"):
        assert failure(open_store(f"redis://{login}@{at}")).startswith(f"{shown} refuses the user name or the password of the URL (")
    with pytest.raises(StoreError, match=f"{shown} forbids the user of the URL to do that"):
        use(open_store(f"redis://reader:{SECRET}2@{at}"), lambda store: store.check())
    use(open_store(f"redis://:{SECRET}@{at}"), lambda store: store.check())


def test_what_a_server_says_is_shown_without_the_password() -> None:
    with replying(f"-ERR unknown command 'AUTH', with args beginning with: '{SECRET}/'\r\n".encode()) as port:
        text = failure(open_store(f"redis://:{SECRET}%2F@127.0.0.1:{port}/0"))
    assert text.endswith("refuses the command (unknown command 'AUTH', with args beginning with: '[password]')")


@pytest.mark.parametrize("reply", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"*x\r\n", b"\0" * 200_000])
def test_a_server_that_is_not_redis(reply: bytes) -> None:
    with replying(reply) as port:
        text = failure(open_store(f"redis://127.0.0.1:{port}/0"))
    assert text.startswith(f"redis://127.0.0.1:{port}/0 does not answer as Redis does; is the address right?")


def test_a_connection_that_uvloop_finds_reset_is_a_store_error(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "unable to perform operation on <TCPTransport closed=True reading=False 0x55>; the handler is closed"

    async def ask(store: Store) -> None:
        for text, expected in ((said, StoreError), ("a bug of ours", RuntimeError)):

            async def fails(*_: object, text: str = text) -> None:
                raise RuntimeError(text)

            monkeypatch.setattr(RedisStore, "_replies", fails)
            with pytest.raises(expected, match="cannot be reached" if expected is StoreError else "a bug"):
                await store.get("a")

    use(open_store(redis_server.url, namespace=uuid.uuid4().hex), ask)


def test_commands_of_one_moment_go_together_and_fail_apart(redis_server: RedisServer) -> None:
    import redis

    name = uuid.uuid4().hex
    with redis.Redis(port=redis_server.port) as client:
        client.set(f"{name}:account:foreign", "text")
        client.config_resetstat()

        async def ask(store: Store) -> None:
            await store.put("k0", b"v0")  # the connection stands
            asked = [store.put(f"k{i}", f"v{i}".encode()) for i in range(50)]
            given_up = asyncio.create_task(store.get("k1"))
            got = asyncio.gather(*asked, store.add("foreign", {"f": 1}), store.add("own", {"f": 2}), return_exceptions=True)
            await asyncio.sleep(0)
            given_up.cancel()
            *puts, refused, added = await got
            assert puts == [None] * 50
            assert isinstance(refused, StoreError) and "WRONGTYPE" in str(refused)
            assert added == {"f": 2}
            assert await store.get_many([f"k{i}" for i in range(50)]) == [f"v{i}".encode() for i in range(50)]

        use(RedisStore(redis_server.url, namespace=name), ask)
        events = client.info("stats")
    assert events["total_connections_received"] == 1


def test_a_key_of_another_program(redis_server: RedisServer) -> None:
    import redis

    name = uuid.uuid4().hex
    with redis.Redis(port=redis_server.port) as client:
        client.set(f"{name}:account:n", "text")
    with pytest.raises(StoreError, match=r"refuses the command .*WRONGTYPE"):
        use(open_store(redis_server.url, namespace=name), lambda store: store.add("n", {"f": 1}))


def test_a_read_only_replica_and_a_full_server(mortal_server: RedisServer) -> None:
    import redis

    with redis.Redis(port=mortal_server.port) as client:
        client.config_set("maxmemory", 1)
        with pytest.raises(StoreError, match="has no memory left"):
            use(open_store(mortal_server.url), lambda store: store.check())
        client.config_set("maxmemory", 0)
        client.replicaof("127.0.0.1", str(unused_port()))
        with pytest.raises(StoreError, match="is a replica that may only be read"):
            use(open_store(mortal_server.url), lambda store: store.put("a", b"1"))


def test_a_cancelled_call_leaves_the_connection_clean(redis_server: RedisServer) -> None:
    name = uuid.uuid4().hex

    async def body(store: Store) -> None:
        await store.put("a", b"1")
        for rounds in range(12):  # cut off at every point of its way
            call = asyncio.create_task(store.get("a"))
            for _ in range(rounds):
                await asyncio.sleep(0)
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                assert await call == b"1"
            assert await store.get_many(["b", "a"]) == [None, b"1"]

    use(open_store(redis_server.url, namespace=name), body)
    gc.collect()


def test_closing_reaches_the_loops_of_other_threads(redis_server: RedisServer) -> None:
    store = open_store(redis_server.url, namespace=uuid.uuid4().hex)
    used, closed = threading.Event(), threading.Event()

    async def elsewhere() -> None:
        await store.put("a", b"1")
        used.set()
        await asyncio.to_thread(closed.wait)
        assert await store.get("a") == b"1"

    thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
    thread.start()
    used.wait()

    def connections() -> int:
        import redis

        with redis.Redis(port=redis_server.port) as client:
            return int(client.info("clients")["connected_clients"])

    before = connections()
    asyncio.run(store.aclose())
    assert connections() == before - 1
    closed.set()
    thread.join()
    gc.collect()


def test_a_command_that_cannot_be_written_takes_no_other_with_it(mortal_server: RedisServer) -> None:
    async def body(store: Store) -> None:
        assert isinstance(store, RedisStore)
        script = "return ARGV[1]"
        asked = [store.put("a", b"1"), store.script(script, [], ["\ud800"]), store.get("a"), store.script(script, [], ["fine"])]
        done = await asyncio.gather(*asked, return_exceptions=True)
        assert (done[0], done[2], done[3]) == (None, b"1", b"fine")
        assert isinstance(done[1], StoreError)
        assert "cannot be sent this" in str(done[1])
        with pytest.raises(StoreError, match="cannot be sent this"):
            await store.script(script, [], ["\ud800"])

    use(RedisStore(mortal_server.url, timeout_s=10), body)


def test_a_server_that_goes_away_after_the_first_reply_leaves_nobody_waiting() -> None:
    async def body(store: Store) -> list[object]:
        return list(await asyncio.gather(store.put("a", b"1"), store.get("a"), store.get("b"), return_exceptions=True))

    with replying(b"+OK\r\n", once=True) as port:
        told = use(open_store(f"redis://127.0.0.1:{port}/0", timeout_s=10), body)
    assert all(isinstance(error, StoreError) and "cannot be reached" in str(error) for error in told), told


def test_a_reply_that_nobody_asked_for_is_nobodys(redis_server: RedisServer) -> None:
    async def body(store: Store) -> None:
        assert isinstance(store, RedisStore)
        await store.put("a", b"1")
        (held,) = store._clients.values()
        await held.connection.send_command("PING")
        while not await held.connection.can_read():  # noqa: ASYNC110 – redis-py tells of it in no other way
            await asyncio.sleep(0)
        assert await store.get("a") == b"1"

    use(RedisStore(redis_server.url, namespace=uuid.uuid4().hex, timeout_s=10), body)


def test_the_commands_that_a_user_is_told_to_allow_are_enough(tmp_path: Path) -> None:
    in_scripts = {
        name
        for file in (Path(__file__).parents[2] / "store").glob("*.py")
        for name in re.findall(r"redis\.call\('([A-Z]+)'", file.read_text())
    }
    assert in_scripts <= set(COMMANDS)
    allowed = [f"+{name.lower()}" for name in COMMANDS]
    for server in running_redis("--user", "app", "on", f">{SECRET}", "~*", *allowed):
        url = server.url.replace("redis://", f"redis://app:{SECRET}@")

        async def body(store: Store, url: str = url) -> None:
            assert isinstance(store, RedisStore)
            await store.check()
            await store.put("a", b"1")
            assert await store.get("a") == b"1"
            await store.delete("a")
            assert await store.add("n", {"f": 1}) == await store.totals("n") == {"f": 1}
            assert await store.script("return 1", [], []) == 1
            log, other = (EventLog(tmp_path / f"{i}.db", redis_url=url, redis_timeout_s=10) for i in range(2))
            await log.append([Event("a", "t", "k", 1.0, subject="u")])
            assert await other.get("a") is not None
            assert await other.erase(lambda topic: True, subject="u") == 1
            await other.exchange()
            await log.exchange()
            assert log.redis_error is other.redis_error is None
            assert await log.get("a") is None
            await log.aclose()
            await other.aclose()

        use(RedisStore(url, timeout_s=10), body)
