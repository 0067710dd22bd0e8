#!/usr/bin/env python3
"""Prose of The Rust Programming Language as plain text, for experiments on real text (text C of docs/accuracy.md).

usage: experiments/book.py [FOLDER] > book.txt

FOLDER is the book as rustup installs it (`rustup component add rust-docs`), by default that of the active toolchain.
Foreword, introduction and chapters 3.2, 4.1, 4.2 and 16.1, paragraphs and list items only: no code, tables or headings.
"""
import argparse
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

CHAPTERS = [
    "foreword",
    "ch00-00-introduction",
    "ch03-02-data-types",
    "ch04-01-what-is-ownership",
    "ch04-02-references-and-borrowing",
    "ch16-01-threads",
]


class Prose(HTMLParser):
    """The paragraphs and list items of a page's main part."""

    def __init__(self):
        super().__init__()
        self.stack, self.parts, self.paragraphs = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("br", "img", "hr", "input", "meta", "link"):
            self.stack.append(tag)

    def handle_endtag(self, tag):
        while self.stack and self.stack.pop() != tag:
            pass
        if tag in ("p", "li"):
            text = " ".join("".join(self.parts).split())
            self.parts = []
            if text:
                self.paragraphs.append(text)

    def handle_data(self, data):
        inside = set(self.stack)
        if "main" in inside and inside & {"p", "li"} and not inside & {"pre", "table", "button"}:
            self.parts.append(data)


def book_of_the_toolchain():
    try:
        root = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"book: expected rustc, which knows where the book is, or a FOLDER, found none: {error}")
    return Path(root.stdout.strip()) / "share/doc/rust/html/book"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="the book as HTML")
    folder = parser.parse_args().folder or book_of_the_toolchain()
    for chapter in CHAPTERS:
        page = folder / f"{chapter}.html"
        if not page.is_file():
            sys.exit(f"book: expected the page {page}, found none; `rustup component add rust-docs` brings it")
        prose = Prose()
        prose.feed(page.read_text())
        print("\n\n".join(prose.paragraphs), end="\n\n")


if __name__ == "__main__":
    main()
