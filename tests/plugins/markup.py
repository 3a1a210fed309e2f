"""Check a page's HTML for forbidden elements and for what screen readers and keyboard users need."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "input"}
FIELDS = {"input", "select", "textarea"}
HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
# Elements that run or fetch something, or change where links lead. The pages need none of them.
FORBIDDEN = {"style", "iframe", "object", "embed", "base", "video", "audio", "template"}
ADDRESSES = {"href", "src", "action", "formaction", "srcset", "data", "poster", "xlink:href"}


class Markup(HTMLParser):
    """A parsed page: its links, its visible text and a list of its faults."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.addresses: list[str] = []
        self.plots: list[str] = []
        self.words: list[str] = []
        self.open: list[tuple[str, list[str], dict[str, str | None]]] = []
        self.level = 0
        self.labelled: set[str | None] = set()
        self.feed(text)
        self.close()
        self.faults += [f"<{tag}> is not closed" for tag, *_ in self.open]
        if self.level == 0:
            self.faults.append("no heading")

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if self.open:
            self.open[-1][1].append(tag)
        for name, value in attributes:
            if name == "style" or name.startswith("on"):
                self.faults.append(f"<{tag}> has {name}={value}")
            if name == "data-plot":
                self.plots.append(str(value))
            if name in ADDRESSES:
                if name != "action":
                    self.addresses.append(str(value))
                if not str(value).startswith("/") or str(value).startswith("//"):
                    self.faults.append(f"<{tag}> leads to {value}")
        if tag in FORBIDDEN or (tag == "script" and not values.get("src")):
            self.faults.append(f"<{tag}> is inline or forbidden")
        if tag in FIELDS and values.get("type") != "hidden":
            inside = any(name == "label" for name, *_ in self.open)
            if not (inside or values.get("aria-label") or values.get("id") in self.labelled):
                self.faults.append(f"<{tag} {values.get('name')}> has no label")
        if tag == "label":
            self.labelled.add(values.get("for"))
        if tag == "html" and not values.get("lang"):
            self.faults.append("no language")
        if tag == "img" and not (values.get("alt") or "").strip():
            self.faults.append("an image without a text")
        if tag == "th" and values.get("scope") not in ("col", "row"):
            self.faults.append("a table's heading without a scope")
        if tag in HEADINGS:
            level = HEADINGS.index(tag) + 1
            if level > self.level + 1:
                self.faults.append(f"<{tag}> follows level {self.level}")
            self.level = level
        if tag not in VOID:
            self.open.append((tag, [], values))

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1][0] != tag:
            self.faults.append(f"</{tag}> closes nothing")
            return
        _, children, values = self.open.pop()
        if tag in ("a", "title", "h1", "h2", "summary", "label") and "text" not in children:
            self.faults.append(f"<{tag} {values.get('href', '')}> has no text")
        if tag == "svg" and not values.get("aria-label"):
            self.faults.append("a picture without a text")
        if tag == "table" and "th" not in children:
            self.faults.append("a table without headings")
        if self.open:  # table rows and link text may be nested deeper
            self.open[-1][1].extend(child for child in children if child in ("th", "text") and tag != "table")

    def handle_data(self, data: str) -> None:
        if data.strip() and self.open:
            tag, children, _ = self.open[-1]
            children.append("text")
            if tag == "script":
                self.faults.append("an inline script")
            self.words.append(data)
