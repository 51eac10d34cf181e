"""Valid inputs as seeds: the samples, callbacks of the simulator, proxy headers, URLs."""

from random import Random

from exporter.simulator.fleet import fleet, true_history
from exporter.simulator.options import SimulatorSettings
from exporter.simulator.wire import CallbackWriter
from tests.http.corpus import GOOD
from tests.support import SAMPLES

SECRET = "c4n4ry"


def callbacks() -> list[bytes]:
    """Return every sample, and callbacks of the simulator."""
    samples = [path.read_bytes() for path in sorted(SAMPLES.glob("*/*.json"))]
    return [*samples, *simulated(5)]


def simulated(tasks: int) -> list[bytes]:
    """Return all callbacks that the simulator would send for a few tasks, valid and invalid."""
    settings = SimulatorSettings(
        tasks=tasks, duration=400, failure_every=60, downtime=5, speed=50, untimed=0.3
    )
    writer, rng = CallbackWriter(1_795_500_000.0, "key"), Random(1)
    bodies = []
    for group in fleet(settings, 7, rng):
        for task in group:
            bodies += [
                writer.body(task, event, has_ids=rng.random() < 0.9)
                for event in true_history(task, settings, rng)
            ]
            bodies += [writer.unknown(task, 1.0, 1), writer.malformed(task, 1.0, 1)]
    return bodies


PROXY_HEADERS = (
    b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n",
    b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n",
    b"PROXY UNKNOWN\r\n",
    b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\xdc\x04\x01\xbb",
    b"\r\n\r\n\x00\r\nQUIT\n\x21\x21\x00\x24" + bytes(36),
    b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00",
    b"POST /callbacks HTTP/1.1\r\nHost: test\r\n",
)
FORWARDED = (
    b"192.0.2.1",
    b"203.0.113.7, 10.0.0.1",
    b"2001:db8::1, [2001:db8::2]:443, 10.0.0.9:1234",
    b"unknown, _hidden, ::ffff:10.0.0.1, 10.0.0.1",
    b"fe80::1%eth0,,,127.0.0.1",
)
URLS = (
    b"\x04rtmp\x08livepushapp/room",
    b"rtmp://5000.livepush.myqcloud.com/live/room?txSecret=0&txTime=1",
    b"https://user:password@[::1]:443/a/b?c#d",
    b"failed: 'srt://host:1?streamid=x' token=abc, key: \"def\"",
)
SIGNED = (
    b'{"sign":"ca3e25e5dc17a6f9909a9ae7281e300d","t":1795500600}',
    b'{"sign":"ca3e25e5dc17a6f9909a9ae7281e300d","t":"1795500600"}',
    GOOD,
)
