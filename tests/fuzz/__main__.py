"""`make fuzz`: run all fuzz tests for a time, report the numbers, and keep failing inputs in build/fuzz."""

import argparse
import asyncio
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from random import Random

from msgspec import Struct

from tests.fuzz.mutate import Mutator
from tests.fuzz.requests import Requests
from tests.fuzz.targets import Target, targets, timed
from tests.fuzz.wire import Wire
from tests.support import HANG_SECONDS, running

KEPT = Path("build/fuzz")
#: Targets for which coverage is worth its cost; the others take microseconds or wait for a disk.
GUIDED = ("parser", "redactor", "fold", "proxy")
GUIDED_FLAGS = ("-print_final_stats=1", "-max_len=4096", "-timeout=10", "-rss_limit_mb=2048", "-verbosity=0")
TOKEN, KEY = "fuzzing-token", "fuzzing-key"
ALL = 10**9


class Row(Struct, frozen=True):
    """The result of one target: numbers of inputs and requests, answers by status, and faults."""

    name: str
    inputs: int
    requests: int = 0
    statuses: Counter[int] = Counter()
    faults: Sequence[str] = ()


def main() -> int:
    """Run the fuzz tests; return 1 if there was a fault."""
    options = _options()
    KEPT.mkdir(parents=True, exist_ok=True)
    seed = options.seed if options.seed is not None else time.time_ns() % 2**32
    print(f"seed {seed}", flush=True)
    rows = []
    for row in _rows(options.only, seed, options.seconds):
        rows.append(row)
        answers = ", ".join(f"{status}: {number}" for status, number in sorted(row.statuses.items()))
        print(f"{row.name:<22} {row.inputs:>9} inputs {row.requests:>9} requests  {answers}", flush=True)
        print(*(fault[:2000] for fault in row.faults), sep="\n", end="\n" if row.faults else "")
    inputs, requests = sum(row.inputs for row in rows), sum(row.requests for row in rows)
    faults = sum(len(row.faults) for row in rows)
    print(f"{inputs + requests} in total: {inputs} inputs, {requests} requests, {faults} faults")
    return 1 if faults else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the exporter.")
    parser.add_argument("--seconds", type=float, default=300, help="total time, default 300")
    parser.add_argument("--seed", type=int, help="seed of the random inputs; by default different each time")
    choices = ("changed", "guided", "wire")
    parser.add_argument("--only", type=lambda text: text.split(","), default=choices, help=", ".join(choices))
    return parser.parse_args()


def _rows(only: Sequence[str], seed: int, seconds: float) -> Iterator[Row]:
    share, every = seconds / len(only), targets()
    if "changed" in only:
        for name, target in every.items():
            yield changed(name, target, seed, share / len(every))
    if "guided" in only and find_spec("atheris"):
        for name in GUIDED:
            yield guided(name, every[name], seed, f"-max_total_time={max(int(share / len(GUIDED)), 1)}", KEPT)
    elif "guided" in only:
        yield Row("guided", 0, faults=("LEFT OUT: atheris is not installed",))
    if "wire" in only:
        yield wire("wire, open", seed, seconds=share / 2)
        yield wire("wire, guarded", seed + 1, seconds=share / 2, guarded=True)


def changed(name: str, target: Target, seed: int, seconds: float) -> Row:
    """Fuzz a target with changed valid inputs."""
    mutator, check = Mutator(Random(seed), target.seeds), timed(target.check)
    ends, number = time.monotonic() + seconds, 0
    while time.monotonic() < ends:
        data = mutator.draw() if number % 4 else mutator.noise()
        number += 1
        try:
            check(data)
        except Exception as exc:
            path = KEPT / f"{name}-{sha256(data).hexdigest()[:12]}"
            path.write_bytes(data)
            return Row(f"{name}, changed", number, faults=(f"{path}: {type(exc).__name__}: {exc}",))
    return Row(f"{name}, changed", number)


def guided(name: str, target: Target, seed: int, limit: str, folder: Path) -> Row:
    """Fuzz a target guided by coverage, in a separate process; keep inputs that reach new code in `folder`.

    Args:
        limit: a flag of libFuzzer that ends the run.
    """
    corpus = folder / f"corpus-{name}"
    corpus.mkdir(exist_ok=True)
    for data in target.seeds:
        (corpus / sha256(data).hexdigest()[:16]).write_bytes(data)
    flags = (limit, f"-seed={seed}", f"-artifact_prefix={folder / name}-", *GUIDED_FLAGS)
    command = [sys.executable, "-m", "tests.fuzz.coverage", name, str(corpus), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    number = sum(map(int, re.findall(r"number_of_executed_units: (\d+)", said)))
    faults = () if done.returncode == 0 and number else (said[-2000:],)
    return Row(f"{name}, guided", number, faults=faults)


def wire(
    name: str, seed: int, *, requests: int = ALL, seconds: float = HANG_SECONDS, guarded: bool = False
) -> Row:
    """Fuzz a real exporter with `requests` requests or for `seconds`.

    Args:
        guarded: run the exporter with a token, a sign key and a trusted proxy.
    """
    with tempfile.TemporaryDirectory() as text:
        folder, flags = Path(text), {}
        if guarded:
            for file, secret in (("tokens", TOKEN), ("keys", KEY)):
                (folder / file).write_text(secret + "\n")
                (folder / file).chmod(0o600)
            flags = {
                "callback__token_file": "tokens",
                "callback__sign_key_file": "keys",
                "callback__trusted_proxies": "127.0.0.0/8",
            }
        chance = Random(seed)
        source = iter(Requests(chance, f"/callbacks/{TOKEN}" if guarded else "/callbacks"))
        with running(folder, **flags) as exporter:
            result = asyncio.run(Wire(exporter, source, chance).run(requests, seconds))
    return Row(name, 0, result.requests, result.statuses, result.faults)


if __name__ == "__main__":
    sys.exit(main())
