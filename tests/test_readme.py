"""Every Python block of the README and the guides runs as a reader would type it and prints what stands under it."""

import asyncio
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/langchain.md", "docs/llamaindex.md", "docs/scheduling.md")
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)
BLOCKS = [(page, *found) for page in PAGES for found in BLOCK.findall((ROOT / page).read_text())]


@pytest.mark.parametrize(
    ("page", "block", "printed"), BLOCKS, ids=[f"{page}-{i}" for i, (page, *_) in enumerate(BLOCKS)]
)
def test_block(page: str, block: str, printed: str, capsys: pytest.CaptureFixture[str]) -> None:
    with asyncio.Runner() as runner:
        runner.get_loop()  # LlamaIndex's blocking methods would make one and leave it open
        exec(compile(block, page, "exec"), {})
    out = capsys.readouterr().out.strip()
    assert out
    assert not printed or out == printed.strip()
