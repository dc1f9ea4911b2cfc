"""How the page stands many visitors: `python -m tests.stress.demo_load --model runs/quickstart`.

Starts the page on loopback and lets a number of visitors (`--visitors`) ask for some time
(`--seconds`): each sends a sentence, reads what the page streams back to its end, and sends the
next. Prints what was served and what was lost, and the page's memory before, in each quarter of the
time, and after. It speaks to 127.0.0.1 alone, and ends by itself.
Exit status: 0, or 1 if a request was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]

from bahdanau_hf.data.preprocessing import load_pairs
from bahdanau_hf.training.arguments import DataArguments
from benchmarks.machine import command_line, describe_machine, machine_text

APP = Path(__file__).parents[2] / "scripts" / "app.py"
WARM_UP = 50  # requests before memory is first read: libraries allocate on first use
DRAIN_SECONDS = 300  # how long those who still wait at the end may wait


@dataclass
class Tally:
    """What became of the requests."""

    seconds: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


async def ask(client: httpx.AsyncClient, function: int, sentence: str) -> str:
    """Ask as the page in a browser does; returns the translation."""
    session = uuid.uuid4().hex
    body = {"fn_index": function, "session_hash": session, "data": [sentence, 1, 1]}
    (await client.post("queue/join", json=body)).raise_for_status()
    # The stream sends changes; the last message of all says whether it went well.
    text = ""
    async with client.stream("GET", "queue/data", params={"session_hash": session}) as lines:
        lines.raise_for_status()
        async for line in lines.aiter_lines():
            message = json.loads(line[6:]) if line.startswith("data: ") else {}
            if message.get("msg") == "process_generating":
                text = first_text(message["output"]["data"][0], text)
            if message.get("msg") == "process_completed":
                if not message["success"]:
                    raise RuntimeError(str(message["output"])[:100])
                return text
    raise RuntimeError("the stream ended too soon")


def first_text(value: Any, before: str) -> str:
    """The translation box after a message, which holds the text or the change to it."""
    if isinstance(value, str):
        return value
    for action, _, added in value or ():
        before = before + added if action == "append" else added
    return before


async def visit(
    client: httpx.AsyncClient, function: int, sentences: list[str], until: float, tally: Tally
) -> None:
    """Be one visitor."""
    for sentence in sentences:
        began = time.monotonic()
        if began > until:
            return
        try:
            if not await ask(client, function, sentence):
                raise RuntimeError("an empty translation")
            tally.seconds.append(time.monotonic() - began)
        except (httpx.HTTPError, RuntimeError, ValueError) as error:
            tally.lost.append(f"{type(error).__name__}: {error}")
            await asyncio.sleep(1)


async def load(url: str, server: psutil.Process, args: argparse.Namespace) -> Tally:
    """Send the load; prints memory as it goes."""
    timeout = httpx.Timeout(DRAIN_SECONDS)
    limits = httpx.Limits(max_connections=2 * args.visitors)
    sentences = [pair["en"] for pair in load_pairs(DataArguments())[0]["train"]["translation"]]
    async with httpx.AsyncClient(
        base_url=f"{url}/gradio_api/", timeout=timeout, limits=limits, trust_env=False
    ) as client:
        config = (await client.get(f"{url}/config")).json()
        function = next(d["id"] for d in config["dependencies"] if d["api_name"] == "translate")
        for sentence in sentences[:WARM_UP]:
            await ask(client, function, sentence)
        print(f"memory before: {server.memory_info().rss / 2**20:.0f} MiB", flush=True)
        tally, until = Tally(), time.monotonic() + args.seconds
        visitors = [
            visit(client, function, sentences[i:] + sentences[:i], until, tally)
            for i in range(args.visitors)
        ]
        crowd = asyncio.gather(*visitors)
        for quarter in range(4):
            await asyncio.sleep(args.seconds / 4)
            memory = server.memory_info().rss / 2**20
            print(f"  after {(quarter + 1) * args.seconds / 4:.0f} s: {memory:.0f} MiB, "
                  f"{len(tally.seconds)} served", flush=True)  # fmt: skip
        await crowd
        await asyncio.sleep(5)
    print(f"memory after: {server.memory_info().rss / 2**20:.0f} MiB")
    return tally


def main() -> int:
    """Start the page, send the load, end the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--visitors", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--port", type=int, default=7873)
    args = parser.parse_args()
    command = [sys.executable, str(APP), "--model", args.model, "--port", str(args.port)]
    page = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert page.stdout is not None
        found = (re.search(r"http://127\.0\.0\.1:\d+", line) for line in page.stdout)
        match = next(filter(None, found), None)
        if match is None:
            return 2
        tally = asyncio.run(load(match[0], psutil.Process(page.pid), args))
    finally:
        page.terminate()
        page.wait(timeout=30)
    waits = sorted(tally.seconds)
    print(f"visitors {args.visitors}, served {len(waits)}, lost {len(tally.lost)}")
    if waits:
        print(f"seconds from question to answer: median {waits[len(waits) // 2]:.1f}, "
              f"longest {waits[-1]:.1f}")  # fmt: skip
    for reason in sorted(set(tally.lost))[:5]:
        print(f"  {reason}")
    command = command_line("tests.stress.demo_load")
    print(machine_text(describe_machine() | {"command": command}))
    return 1 if tally.lost else 0


if __name__ == "__main__":
    sys.exit(main())
