"""Looks where the links between the pages of a folder lead, anchors included: links.py FOLDER"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The anchors of a page, and the links from it."""

    def __init__(self, text):
        super().__init__()
        self.anchors, self.links = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id":
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)


def broken(folder):
    pages = {path: Page(path.read_text()) for path in folder.rglob("*.html")}
    if not pages:
        yield f"{folder}: there is no page"
    for path, page in pages.items():
        # Read by the program that shows a missing page at any address.
        for link in page.links if path.name != "404.html" else []:
            address = urlsplit(link)
            if address.scheme or address.netloc:
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            if target.is_dir():
                target /= "index.html"
            anchor = unquote(address.fragment)
            if not target.exists():
                yield f"{path}: {link}: there is no such page"
            elif anchor and target in pages and anchor not in pages[target].anchors:
                yield f"{path}: {link}: there is no such heading"


if __name__ == "__main__":
    found = list(broken(Path(sys.argv[1]).resolve()))
    sys.exit("\n".join(found) if found else 0)
