"""The embedded family behind three vLLM servers, until Ctrl-C: `python -m tests.servers`."""

from __future__ import annotations

import contextlib
import threading

from tests.servers.launcher import family


def main() -> None:
    """Start, tell the specs, wait, stop."""
    with contextlib.suppress(KeyboardInterrupt), family() as servers:
        draft, target, prm = (servers[name].spec for name in ("draft", "target", "prm"))
        print(f"rsd run --draft {draft} --target {target} --verifier {prm}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
