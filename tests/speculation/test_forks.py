"""A process that is forked in the middle of a speculative step: whoever waits there hears of it, and may go on."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import asyncio, os, sys, threading
from dataclasses import replace
from rsd_core import Path, Speculation, StepRequest, as_prompt, load

drafter, target = load("embedded:draft"), load("embedded:target")
request = StepRequest((0,), 40, None, speculation=Speculation(drafter=drafter))
busy = {"drafter": drafter, "target": target}[sys.argv[1]]
inner, passes = busy.runner._run, 0
reached, go_on = threading.Event(), threading.Event()

def run(batch, indices):
    global passes
    passes += 1
    if passes == 4:
        reached.set()
        go_on.wait(20)
    return inner(batch, indices)

busy.runner._run = run

async def call():
    return (await target.generate(Path(as_prompt("Mia has 45 apples.")), request)).steps[0].size

loop = asyncio.new_event_loop()
waiting = lambda task: loop.run_until_complete(asyncio.wait_for(task, 20))
begun = loop.create_task(call())
loop.run_until_complete(asyncio.to_thread(reached.wait, 20))
late = loop.create_task(call())  # it waits for the model's next forward pass
loop.run_until_complete(asyncio.sleep(0.1))
child = os.fork()
if child:
    os.waitpid(child, 0)
    go_on.set()
    print(waiting(begun), waiting(late))
else:
    try:
        for task in (begun, late):
            try:
                waiting(task)
            except Exception as error:
                print(repr(error), flush=True)
        print(waiting(loop.create_task(call())), flush=True)
    finally:
        os._exit(0)
"""


@pytest.mark.parametrize("busy", ["drafter", "target"])
def test_a_call_of_a_forked_process_fails_whichever_of_its_rows_rests(busy: str) -> None:
    done = subprocess.run([sys.executable, "-c", CODE, busy], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, second, *lengths = done.stdout.splitlines()
    assert first == second
    assert first.startswith("RuntimeError('the process was forked during this call of a model")
    assert lengths[0].split() * 2 == lengths[1].split()
