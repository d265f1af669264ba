"""Pages read back as a browser's parser would: what is markup, and what is text."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta"}
PLAIN = {
    *("html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "article", "section", "p", "div"),
    *("span", "strong", "em", "i", "bdi", "ol", "ul", "li", "details", "summary", "a"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td"),
}


class Page(HTMLParser):
    """A page whose elements nest, made of elements that can do nothing."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.blocks: list[str] = []
        """Contents of the blocks that show somebody's text."""
        self._open: list[tuple[str, bool]] = []
        self.feed(html)
        self.close()
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert tag in PLAIN, f"<{tag}>"
        assert len(given) == len(attrs)
        self.tags.append((tag, given))
        own = "text" in (given.get("class") or "").split()
        if own:
            self.blocks.append("")
        if tag not in VOID:
            self._open.append((tag, own))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag, f"</{tag}>"

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1][1]:
            self.blocks[-1] += data

    def attributes(self) -> set[str]:
        return {name for _, given in self.tags for name in given}

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [given for name, given in self.tags if name == tag]
