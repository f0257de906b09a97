"""A page as its elements, in order."""

from __future__ import annotations

from html.parser import HTMLParser

__all__ = ["Element", "parse"]

_VOID = {"meta", "img", "input", "br"}


class Element:
    def __init__(self, tag: str, attributes: dict[str, str], path: tuple[str, ...]) -> None:
        self.tag, self.attributes, self.path = tag, attributes, path
        self.text = ""


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.open: list[Element] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        path = tuple(element.tag for element in self.open)
        element = Element(tag, {name: value or "" for name, value in attrs}, path)
        self.elements.append(element)
        if tag not in _VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data


def parse(html: str) -> list[Element]:
    """Returns the elements; fails where tags don't close in order."""
    parser = _Parser()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser.elements
