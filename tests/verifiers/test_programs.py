"""`code:`: programs are scored by their tests, cannot fake results, and cannot reach anything."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
import time
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path as Folder
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsd_core import ConfigurationError, Path, Step, VerifierError, as_prompt, load
from rsd_integrations.verifiers import Programs, sandbox, supervisor
from rsd_integrations.verifiers.sandboxed.wire import Message, entries, fill

pytestmark = [
    pytest.mark.filterwarnings("ignore:sandbox=none"),
    pytest.mark.skipif(sys.platform == "win32", reason="there is no sandbox for Windows"),
]

TESTS = {"Write add.": ["assert add(2, 3) == 5", "assert add(-1, 1) == 0"]}
ASKED = Path(as_prompt("Write  add."))


def why_not(name: Any) -> str:
    """Why there is no sandbox of this name here; empty if there is one."""
    try:
        sandbox.find(name)
    except ConfigurationError as error:
        return str(error)
    return ""


NO_BUBBLEWRAP = why_not("bwrap")
needs_bubblewrap = pytest.mark.skipif(bool(NO_BUBBLEWRAP), reason=NO_BUBBLEWRAP)
BEST = "none" if NO_BUBBLEWRAP else "bwrap"
anywhere = pytest.mark.parametrize("where", ["none", pytest.param("bwrap", marks=needs_bubblewrap)])


def passed(where: Any, code: str, *tests: str, **options: Any) -> list[bool]:
    return asyncio.run(Programs({}, sandbox=where, **options).run(code, tests))


def step(code: str) -> Step:
    return Step(f"Here:\n```python\n{code}\n```\n\n", "delimiter")


def judged(path: Path, scored: Step) -> float | None:
    return asyncio.run(Programs(TESTS, sandbox="none").score(path, [scored])).rewards[0]


# -- scores -----------------------------------------------------------------------------------------------------------


def test_programs_are_scored_by_the_tests_they_pass() -> None:
    assert judged(ASKED, step("def add(a, b):\n    return a + b")) == 1
    assert judged(ASKED, step("def add(a, b):\n    return a * b - 1")) == 0.5
    assert judged(ASKED, step("def add(a, b) return")) == 0
    assert judged(ASKED, step("def add(a, b):\n    return a + b\n\nraise ValueError")) == 0


def test_programs_abstain_where_there_is_nothing_to_run() -> None:
    assert judged(ASKED, Step("no code\n\n", "delimiter")) is None
    assert judged(Path(as_prompt("Write sub.")), step("x = 1")) is None


def test_a_program_may_span_steps() -> None:
    path = ASKED.extend(Step("```python\ndef add(a, b):\n\n", "delimiter"))
    assert judged(path, Step("    return a + b\n```\n\n", "delimiter")) == 1


def test_what_held_before_the_time_was_over_counts() -> None:
    code = "import time\ndef wait(x): time.sleep(x); return True"
    started = time.monotonic()
    assert passed(BEST, code, "assert wait(0)", "assert wait(60)", "assert wait(0)", seconds=1) == [True, False, False]
    assert passed(BEST, code + "\nwhile True: pass", "assert True", seconds=1) == [False]
    assert passed("none", code, "while True: wait(0)", seconds=1) == [False]
    assert time.monotonic() - started < 30  # of 3, and the start of processes on a busy machine


def test_tests_come_from_a_file(tmp_path: Folder) -> None:
    file = tmp_path / "tests.jsonl"
    file.write_text('{"problem": "Write add.", "tests": ["assert add(2, 3) == 5"]}\n\n')
    made = load(f"code,sandbox=none:{file}", role="verifier")
    assert asyncio.run(made.score(ASKED, [step("def add(a, b): return a + b")])).rewards == (1,)
    for row, message in (
        ('{"problem": "Write add."}', "line 1: it has no `tests`"),
        ('{"tests": []}', "line 1: it has no `problem`"),
        ('{"problem": "Write add.", "tests": "x"}', 'line 1: `tests` is "x", not a list of texts'),
    ):
        file.write_text(row)
        with pytest.raises(ConfigurationError, match=message):
            load(f"code:{file}")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load(f"code:{tmp_path}/none.jsonl")


# -- what tests can do ------------------------------------------------------------------------------------------------

RIGHT = """
from __future__ import annotations
import collections, enum, math
from dataclasses import dataclass
from fractions import Fraction

@dataclass
class Point:
    x: int
    y: int = 0
    made = 0
    def __add__(self, other): return Point(self.x + other.x, self.y + other.y)
    def __mul__(self, times): return Point(self.x * times, self.y * times)
    def __abs__(self): return math.hypot(self.x, self.y)
    @classmethod
    def zero(cls): return cls(0)

class Circle(Point): pass
class Failed(Exception):
    def __init__(self, code): super().__init__(f"code {code}"); self.code = code
class Worse(Failed): pass
class Color(enum.IntEnum):
    RED = 1
    GREEN = 2
class Stack:
    def __init__(self): self.held = []
    def push(self, one): self.held.append(one)
    def pop(self): return self.held.pop()
    def __len__(self): return len(self.held)
    def __iter__(self): return iter(self.held)
    def __getitem__(self, at): return self.held[at]
    def __enter__(self): return self
    def __exit__(self, kind, error, trace): self.left = kind; return True
class Node:
    def __init__(self, value, following=None): self.value, self.following = value, following
Pair = collections.namedtuple("Pair", "a b")

def fail(code): raise Worse(code)
def order(held): held.sort()
def same(one): return one
def apply(function, *args): return function(*args)
def total(numbers): return sum(numbers)
def halves(n): return Fraction(n, 2)
def count():
    n = 0
    while True:
        yield n
        n += 1
def named(*, op, self=0): return op + self
def repeat(function): return lambda *args: (function(*args), function(*args))
async def later(x): return x + 1
def area(r): return math.pi * r * r
def sum(numbers): return 42
total.calls = 3
"""
HOLD = {
    "data": "assert same([1, 2.5, None, 'a\\n\\ud800', b'x', (1, [2]), {1: {2, 3}}, 10 ** 5000, 1j, range(3)]) == "
    "[1, 2.5, None, 'a\\n\\ud800', b'x', (1, [2]), {1: {2, 3}}, 10 ** 5000, 1j, range(3)]",
    "types": "assert type(same((1,))) is tuple and type(same(True)) is bool and isinstance(halves(1), Fraction)",
    "numbers": "assert abs(area(2) - 12.566) < 0.001 and math.isclose(area(1), math.pi)",
    "keywords": "assert named(op=1, self=2) == 3",
    "errors": "try: fail(3)\nexcept Failed as e: assert (e.code, str(e), type(e).__name__) == (3, 'code 3', 'Worse')\n"
    "else: assert False",
    "Python's errors": "try: same()\nexcept TypeError as e: assert 'missing' in str(e)\nelse: assert False",
    "changed arguments": "held = [3, 1, 2]; order(held); assert held == [1, 2, 3]",
    "one list twice": "held = [[1], [2]]; assert same(held) is held and same(held)[0] is held[0]",
    "functions of the test": "assert apply(lambda x, y: x + y, 2, 3) == 5 and apply(len, [1]) == 1",
    "functions both ways": "@repeat\ndef twice(x): return [x]\nassert twice(1) == ([1], [1])",
    "errors of the test": "def bad(): raise KeyError(5)\n"
    "try: apply(bad)\nexcept KeyError as e: assert e.args == ('5',)\nelse: assert False",
    "generators": "from itertools import islice\nn = count(); assert list(islice(n, 3)) == [0, 1, 2] and next(n) == 3",
    "generators of the test": "assert total(x * x for x in [1, 2]) == 42 and apply(list, iter('ab')) == ['a', 'b']",
    "objects": "p = Point(1, 2); p.x = 5; assert (p.x, p.y, p.zero().x) == (5, 2, 0) and repr(p) == 'Point(x=5, y=2)'",
    "equal objects": "assert Point(1, 2) == Point(1, 2) != Point(1, 3) and Point(1) + Point(2) == Point(3)",
    "objects and data": "assert Point(1, 2) * 2 == Point(2, 4) and abs(Point(3, 4)) == 5 and Point(1) != 1",
    "classes": "assert isinstance(Circle(1), Point) and type(Circle(1)) is Circle and issubclass(Circle, Point)\n"
    "Point.made = 7; assert Circle.made == 7 and Point.__name__ == 'Point'",
    "named tuples": "assert Pair(1, 2) == (1, 2) and Pair(1, 2).a == 1 and max(Pair(1, 2), (0, 9)) == (1, 2)",
    "enums": "assert Color.RED == 1 and list(Color) == [Color.RED, Color.GREEN] and Color(2) is Color['GREEN']",
    "containers": "s = Stack(); s.push(4); assert len(s) == 1 and 4 in s and 5 not in s and s[0] == 4 and [*s] == [4]\n"
    "assert s.pop() == 4 and not s",
    "links": "n = Node(1, Node(2)).following; n.value = 3; assert n.value == 3 and n.following is None",
    "with": "with Stack() as s: 1 / 0\nassert s.left is ZeroDivisionError",
    "printing": "import io, contextlib\nwith contextlib.redirect_stdout(io.StringIO()) as out: apply(print, 'hi')\n"
    "assert out.getvalue() == 'hi\\n'",
    "coroutines": "import asyncio; assert asyncio.run(later(1)) == 2",
    "awaiting": "import asyncio\nasync def main(): assert await later(2) == 3\nasyncio.run(main())",
    "a function of a builtin's name": "assert program.sum([1]) == 42 and sum([1]) == 1",
    "attributes of functions": "assert total.calls == 3 and total.__name__ == 'total'",
    "a checker": "def check(candidate):\n    assert candidate(1) == 1\ncheck(same)",
    "keys": "assert {Pair(1, 2): 3}[1, 2] == 3 and len({Point, Circle}) == 2",
}


def test_what_tests_can_do() -> None:
    held = passed(BEST, RIGHT, *HOLD.values(), seconds=60)
    assert [name for name, held in zip(HOLD, held, strict=True) if not held] == []


def test_a_test_that_cannot_be_run_apart_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    programs = Programs({}, sandbox="none")
    for _ in range(2):
        assert asyncio.run(programs.run(RIGHT, ["class Own(Point): pass", "same(object())"])) == [False] * 2
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [text.partition("failed: ")[2] for text in told] == [
        "a test cannot derive a class from the program's Point",
        "a test cannot pass a value of type object to a program",
    ]


# -- programs that would answer for their tests -----------------------------------------------------------------------

ADD = "assert add(2, 3) == 5"
NEAR = "assert abs(add(2, 3) - 5) < 0.1"
CLASS = "class {}:\n    def __init__(self, *args): pass\n    def {}(self, *args): return {}\n"
FORGED = 'b\'{"passed": true}\\n{"value": 5}\\n\''
FORGERIES: dict[str, tuple[str, str]] = {
    "leaves": ("import os\nos._exit(0)", ADD),
    "leaves when asked": ("import os\ndef add(a, b): os._exit(0)", ADD),
    "leaves before the test looks": ("import os\ndef add(a, b): os._exit(0)", "try: add(2, 3)\nexcept: pass"),
    "exits": ("import sys\nsys.exit(0)", ADD),
    "exits when asked": ("def add(a, b): raise SystemExit(0)", ADD),
    "is equal to everything": (CLASS.format("add", "__eq__", "True"), ADD),
    "is equal to everything from its right": (CLASS.format("add", "__eq__", "True"), "assert 5 == add(2, 3)"),
    "is unequal to nothing": (CLASS.format("add", "__ne__", "False"), "assert not add(2, 3) != 5"),
    "is near everything": (CLASS.format("add", "__sub__", "0"), NEAR),
    "is near everything in the end": (
        CLASS.format("Zero", "__abs__", "0") + CLASS.format("add", "__sub__", "Zero()"),
        NEAR,
    ),
    "contains everything": (
        CLASS.format("add", "__iter__", "iter([])") + "    def __contains__(self, x): return True",
        "assert 5 in add(2, 3)",
    ),
    "is less than everything": (CLASS.format("add", "__lt__", "True"), "assert add(2, 3) < 1"),
    "is a number of its own": (
        "class Five(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\n"
        "def add(a, b): return Five(7)",
        ADD,
    ),
    "redefines what is built in": (
        "import builtins\nfor name in ('abs', 'print', 'isinstance', 'len', '__build_class__', 'AssertionError'):\n"
        "    setattr(builtins, name, lambda *args, **options: 0)\ndef add(a, b): return 7",
        NEAR,
    ),
    "has functions of the same names": ("def abs(x): return 0\ndef add(a, b): return 7", NEAR),
    "redefines modules": (
        "import math, json, sys, os, operator\nmath.isclose = lambda *a: True\njson.dumps = lambda *a, **o: 'true'\n"
        "sys.stdout = None\nos.write = print\noperator.eq = lambda *a: True\ndef add(a, b): return 7",
        "assert math.isclose(add(2, 3), 5)",
    ),
    "prints a verdict": (f"import os, sys\nprint({FORGED})\nfor f in range(3): os.write(f, {FORGED})", ADD),
    "writes a verdict wherever it can": (
        f"import os\nfor f in range(3, 32):\n    try: os.write(f, {FORGED})\n    except OSError: pass\n"
        "def add(a, b): return 7",
        ADD,
    ),
    "takes its process apart": (
        "import gc, sys\nfrom rsd_integrations.verifiers.sandboxed import program, wire\n"
        "for one in gc.get_objects():\n"
        "    if type(one).__name__ == '_Session': one._answer = lambda request: one._send({'value': True})\n"
        "def add(a, b): return 7",
        ADD,
    ),
    "imports its tests' process": (
        "from rsd_integrations.verifiers.sandboxed import tester\ntester._Run.test = lambda *args: None", ADD,
    ),
    "forks": ("import os\nos.fork()\nos.fork()\ndef add(a, b): return 7", ADD),
    "ends what started it": ("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\ndef add(a, b): return 7", ADD),
    "writes to all processes it sees": (
        "import os\nfor pid in os.listdir('/proc') if os.path.isdir('/proc') else []:\n    for f in range(3):\n"
        f"        try: os.write(os.open(f'/proc/{{int(pid)}}/fd/{{f}}', os.O_WRONLY), {FORGED})\n"
        "        except (OSError, ValueError): pass\ndef add(a, b): return 7",
        ADD,
    ),
    "answers without end": ("def add(a, b): return 'x' * (20 << 20)", ADD),
    "answers in depth": ("def add(a, b):\n    x = []\n    for _ in range(10 ** 5): x = [x]\n    return x", ADD),
}  # fmt: skip


@anywhere
@pytest.mark.parametrize("way", FORGERIES)
def test_a_program_cannot_answer_for_its_tests(way: str, where: str) -> None:
    code, test = FORGERIES[way]
    assert passed(where, code, test, seconds=3) == [False]


@anywhere
def test_a_program_holds_neither_its_tests_nor_their_secrets(where: str) -> None:
    # It finds its own text, to show that it can, but none of the test that asks.
    code = """
import gc, sys
own = "".join(["a text", " of its own"]) + "!"
def found(*parts):
    word, seen, texts, at = " ".join(parts), set(), [], [*gc.get_objects(), *sys._current_frames().values()]
    while at:
        one = at.pop()
        if id(one) not in seen:
            seen.add(id(one))
            texts += [one] if isinstance(one, (str, bytes)) else []
            at += gc.get_referents(one)
    return [text for text in map(str, texts) if word in text and len(text) > len(word)]
"""
    tests = [
        "assert found('a', 'text', 'of', 'its', 'own') == ['a text of its own!']",
        "assert found('assert', 'found') == []",
    ]
    assert passed(where, code, *tests, seconds=30) == [True, True]


def test_in_one_process_programs_could_answer() -> None:
    """That the programs above do try: the plain way of running tests falls for those that end in an answer."""
    for way in FORGERIES:
        if way.startswith(("is ", "contains")) or way == "has functions of the same names":
            code, test = FORGERIES[way]
            exec(f"{code}\n{test}", {"__name__": "program"})


# -- programs that would get at something -----------------------------------------------------------------------------

REFUSED = """
def refused(action, *args, error=OSError):
    try: action(*args)
    except error: return True
    return False
"""


@pytest.fixture
def users(tmp_path: Folder, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A user's file, port and secret, and the process that this is."""
    file = tmp_path / "own.txt"
    file.write_text("hello")
    monkeypatch.setenv("A_SECRET", "hidden")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=2):
            pass  # the server is there, for us
        yield {"file": str(file), "folder": str(tmp_path), "port": port, "pid": os.getpid()}


@needs_bubblewrap
@pytest.mark.parametrize("user", ["own", "ordinary"])
def test_a_program_sees_nothing_and_leaves_nothing(
    users: dict[str, Any], user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if user == "ordinary":  # the way that bubblewrap is started for users who are not root, which root has as well
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        sandbox.find.cache_clear()
    code = f"import os, socket, sys, time, threading\n{REFUSED}"
    tests = [
        f"assert refused(open, {users['file']!r})",
        f"assert refused(os.listdir, {users['folder']!r}) and refused(os.listdir, {str(Folder.cwd())!r})",
        "assert not {'home', 'tmp', 'proc', 'var', 'bin'} & set(os.listdir('/'))",
        "assert refused(open, '/written', 'w') and refused(os.mkdir, '/made')",
        "assert refused(open, os.__file__, 'a') and refused(open, '/sandbox/sandboxed/tester.py', 'a')",
        f"assert refused(socket.create_connection, ('127.0.0.1', {users['port']}), 2)",
        "assert [name for _, name in socket.if_nameindex()] == ['lo']",
        f"assert refused(os.kill, {users['pid'] + 10**5}, 0) and os.getpid() < 100",
        "assert list(os.environ) == []",
        "assert refused(__import__, 'numpy', error=ImportError) and refused(__import__, 'pip', error=ImportError)",
        "assert refused(bytearray, 10 ** 9, error=MemoryError)",
    ]
    if user == "own" or os.getuid() != 0:  # for root, there is no limit on processes otherwise
        tests += ["assert refused(os.fork) and refused(threading.Thread(target=print).start, error=RuntimeError)"]
    made = Programs({}, sandbox="bwrap", seconds=30)
    sandbox.find.cache_clear()
    monkeypatch.undo()
    held = asyncio.run(made.run(code, tests))
    assert [test for test, held in zip(tests, held, strict=True) if not held] == []
    # Tests are isolated too: those of a data set are no more trustworthy than its problems.
    tests = [f"open({users['file']!r})", "open('/x', 'w')", "assert True"]
    assert asyncio.run(made.run("", tests)) == [False, False, True]


def test_without_a_sandbox_limits_hold_all_the_same(users: dict[str, Any]) -> None:
    tests = [
        "assert list(os.environ) == []",
        f"assert refused(lambda: open({users['folder'] + '/written'!r}, 'w').write('x' * 10 ** 6))",
        "assert refused(bytearray, 10 ** 9, error=MemoryError)",
    ]
    # The namespace that takes the network away is not to be had everywhere, such as in some containers.
    if os.system("unshare -rn true 2>/dev/null") == 0:
        tests += [f"assert refused(socket.create_connection, ('127.0.0.1', {users['port']}), 2)"]
    assert passed("none", f"import os, socket\n{REFUSED}", *tests) == [True] * len(tests)


def test_what_leaves_its_session_ends_with_its_tests() -> None:
    code = "import os, time\nos.setsid()\ndef own(): return os.getpid()\ndef wait(): time.sleep(60)"
    began = time.perf_counter()
    assert passed("none", code, "assert own() > 0", "wait()", seconds=1) == [True, False]
    assert time.perf_counter() - began < 30


@pytest.mark.parametrize("turns", range(6))
def test_a_call_may_be_cancelled_while_its_sandbox_starts(turns: int) -> None:
    """Processes that the sandbox has begun to start by then hold the pipes, and nothing else ends them."""
    starting = sandbox.Sandbox("none", ("/bin/sh", "-c", "sleep 60 & wait"), "")

    async def cancelled() -> None:
        call = asyncio.ensure_future(supervisor.run_tests(starting, "", [], seconds=1, memory=2**29))
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        done, _ = await asyncio.wait([call], timeout=20)
        assert done == {call}
        assert call.cancelled()

    asyncio.run(cancelled())


@pytest.mark.parametrize(
    "options", [{"seconds": float("nan")}, {"seconds": float("inf")}, {"seconds": 0}, {"memory": 63}, {"parallel": 0}]
)
def test_invalid_limits_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"above 0 and up to 86400, from 64 MB"):
        Programs({}, sandbox="none", **options)


# -- which sandbox ----------------------------------------------------------------------------------------------------


def test_without_a_sandbox_it_asks_for_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Folder) -> None:
    sandbox.find.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ConfigurationError, match=r"bwrap is not installed.*Install bubblewrap.*code,sandbox=none:TESTS"
    ):
        Programs({})
    with pytest.raises(ConfigurationError, match="docker is not installed"):
        Programs({}, sandbox="docker")
    with pytest.raises(ConfigurationError, match="sandbox=jail is unknown"):
        Programs({}, sandbox="jail")  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="can read your files"):
        Programs({}, sandbox="none")


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (
            'echo "setting up uid map: Permission denied" >&2; exit 1',
            "bwrap does not work: setting up uid map: Permission",
        ),
        (f'exec {sys.executable} -I -S -c "$LAST" {Folder(sandbox.__file__).parent} probe', "sees the user's files"),
    ],
    ids=["forbidden", "keeps nothing apart"],
)
def test_a_sandbox_that_does_not_work_is_none(
    script: str, why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Folder
) -> None:
    sandbox.find.cache_clear()
    program = tmp_path / "bwrap"
    program.write_text(f'#!/bin/sh\nfor arg; do case "$arg" in import*) LAST="$arg";; esac; done\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ConfigurationError, match=why):
        sandbox.find("bwrap")


def test_containers_of_local_images_run_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Folder) -> None:
    """A stand-in for the client: what it is called with, and that nothing else is asked of it."""
    sandbox.find.cache_clear()
    program = tmp_path / "docker"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\ncase $1 in images) cat {tmp_path}/images;; *) echo "[]"; esac'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "images").write_text("debian:12\nmypython:3\n")
    with pytest.raises(ConfigurationError, match=r"no Python image \(docker pull python:3"):
        sandbox.find("docker")
    own = f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"
    (tmp_path / "images").write_text(f"python:3.8\nlocalhost/{own}\npython:<none>\n")
    found = sandbox.find("docker")
    assert found.start[-1] == f"localhost/{own}"
    for flags in ("--network none", "--read-only", "--cap-drop ALL", "--user 65534:65534", "--pull never"):
        assert flags in " ".join(found.start)


@pytest.mark.parametrize("where", ["none", pytest.param("bwrap", marks=needs_bubblewrap)])
def test_the_doctor_says_what_keeps_programs_apart(
    where: str, tmp_path: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    from rsd_integrations.cli.doctor import doctor

    file = tmp_path / "tests.jsonl"
    file.write_text('{"problem": "Write add.", "tests": ["assert add(2, 3) == 5"]}\n')
    doctor([f"code,sandbox={where}:{file}"], as_json=True)
    (findings,) = json.loads(capsys.readouterr().out).values()
    (found,) = (one for one in findings if one["name"] == "sandbox")
    assert found["ok"] is (True if where == "bwrap" else None)
    assert found["told"].startswith(f"{where}: programs")


async def test_a_sandbox_that_no_longer_starts_is_not_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = sandbox.Sandbox("bwrap", ("/bin/false",), "/")
    with pytest.raises(VerifierError, match="no longer starts Python"):
        await supervisor.run_tests(broken, "x = 1", ["assert True"], seconds=5, memory=1 << 29)


# -- values between processes -----------------------------------------------------------------------------------------

simple = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary(),
    st.complex_numbers(allow_nan=False), st.decimals(allow_nan=False), st.fractions(), st.dates(), st.datetimes(),
    st.timedeltas(), st.sampled_from([-(2**63), 2**62, ..., range(2, 9, 3), slice(1, None, 2)]),
)  # fmt: skip
keys = st.one_of(st.integers(), st.text(), st.tuples(st.integers(), st.text()))
values = st.recursive(
    simple,
    lambda inner: st.one_of(
        st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(keys, inner), st.sets(keys), st.frozensets(keys),
        st.lists(inner).map(lambda held: deque(held, 7)), st.dictionaries(keys, inner).map(OrderedDict),
        st.lists(keys).map(Counter), st.binary().map(bytearray),
    ),
    max_leaves=8,
)  # fmt: skip


def sent(value: Any) -> Any:
    def other(value: Any) -> Any:
        raise AssertionError(f"{value!r} is no data")

    return Message(other, other).decode(json.loads(json.dumps(Message(other, other).encode(value))))


@given(values)
@settings(max_examples=150, deadline=None)
def test_data_arrives_as_it_was(value: Any) -> None:
    got = sent(value)
    assert got == value
    assert repr(got) == repr(value) or isinstance(value, set | frozenset | dict | list | tuple | deque)
    assert type(got) is type(value)


def test_one_container_stays_one() -> None:
    inner: list[Any] = [1]
    held = [inner, inner, (inner,), {"a": inner}]
    inner.append(held)
    got = sent(held)
    assert got[0] is got[1] is got[2][0] is got[3]["a"]
    assert got[0][1] is got
    assert sent(deque([1, 2], 3)).maxlen == 3
    assert {type(one) for one in sent([Decimal(1), Fraction(1), date.max, datetime.max, timedelta(1)])} == {
        Decimal, Fraction, date, datetime, timedelta
    }  # fmt: skip
    for value in ([1, 2], {1: 2}, {1, 2}, bytearray(b"ab"), deque([1]), defaultdict(None, {1: 2})):
        empty = type(value)()
        fill(empty, entries(value))
        assert empty == value


def test_a_subclass_of_data_is_not_data() -> None:
    class Own(int):
        pass

    asked = []
    Message(lambda value: asked.append(value) or ["other"], lambda data: data).encode([Own(1), 1])  # type: ignore[func-returns-value]
    assert [type(value) for value in asked] == [Own]
