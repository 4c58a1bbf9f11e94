"""The proxy does to a connection what it says."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.faults.background import TcpServer
from tests.faults.netproxy import Proxy


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    server = TcpServer(echo)
    found = Proxy(server.port)
    yield found
    found.close()
    server.close()


async def say(proxy: Proxy, text: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(text)
    await writer.drain()
    return reader, writer


async def ends(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read(5) == b""
    except ConnectionError:
        return True


async def test_everything_passes_at_first(proxy: Proxy) -> None:
    reader, writer = await say(proxy, b"hello")
    assert await reader.readexactly(5) == b"hello"
    assert proxy.connections == 1
    writer.close()


@pytest.mark.parametrize("fault", ["black hole", "there", "back"])
async def test_what_is_held_arrives_when_all_is_well_again(proxy: Proxy, fault: str) -> None:
    proxy.black_hole() if fault == "black hole" else proxy.one_way(fault)
    reader, writer = await say(proxy, b"hello")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(5), 0.1)
    proxy.restore()
    assert await reader.readexactly(5) == b"hello"
    writer.close()


async def test_refused_connections_end_at_once_and_come_again(proxy: Proxy) -> None:
    reader, writer = await say(proxy, b"hello")
    await reader.readexactly(5)
    proxy.refuse()
    assert await ends(reader)
    with pytest.raises(OSError):
        await say(proxy, b"hello")
    proxy.restore()
    reader, other = await say(proxy, b"again")
    assert await reader.readexactly(5) == b"again"
    writer.close()
    other.close()


async def test_a_connection_is_reset_after_so_many_bytes(proxy: Proxy) -> None:
    proxy.reset_after(3)
    reader, writer = await say(proxy, b"hello")
    assert await ends(reader)
    writer.close()


async def test_slow_networks_deliver_everything(proxy: Proxy) -> None:
    proxy.latency(0.01)
    proxy.throttle(100_000)
    reader, writer = await say(proxy, b"hello" * 1000)
    assert await reader.readexactly(5000) == b"hello" * 1000
    writer.close()
