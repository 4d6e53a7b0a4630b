"""What Markdown and HTML become on a page: the parts of it that do something."""

from html.parser import HTMLParser

from markdown_it import MarkdownIt

ACTIVE = {"a", "img", "script", "iframe", "svg", "style", "link", "h1", "h2", "h3", "li", "hr"}


def rendered(text: str) -> str:
    """Return Markdown with tables as HTML; raw HTML in it stays, as on Prefect's pages."""
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text)


class Page(HTMLParser):
    """The tags of a page in their order, with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def names(self) -> list[str]:
        return [name for name, _ in self.tags]
