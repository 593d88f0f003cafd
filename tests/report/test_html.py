"""Text in pages is text: nothing that a file name or a setting holds becomes markup, script or address."""

import html.parser
import os
import re
import urllib.parse

import pytest

from jaxbrats.report.pages.html import link_to, render

HOSTILE = [
    "</script><script>alert(1)</script>", "<!--", "\"'><img src=x onerror=alert(1)>", "{{ 7 * 7 }}{% raw %}",
    "a\nb", "\x1b[31m", "\u202eevil", os.fsdecode(b"caf\xe9"),
]  # fmt: skip


class Parser(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.now, self.policy, self.texts, self.loads, self.tags = "", "", {}, [], []
        self.feed(text)

    def handle_starttag(self, name, attributes):
        attributes = dict(attributes)
        self.now = name
        self.tags.append(name)
        self.loads += [value for key, value in attributes.items() if key in ("src", "action", "data")]
        if attributes.get("http-equiv") == "Content-Security-Policy":
            self.policy = attributes["content"]

    def handle_data(self, data):
        self.texts[self.now] = self.texts.get(self.now, "") + data


def overview(text):
    empty = {key: [] for key in ("tiles", "tables", "cases", "lesions", "lesion_head", "boxes", "curves")}
    context = empty | {"pages": {}, "links": {}, "lesions_left_out": False, "every_case_is_a_dot": True}
    return render(
        "overview", ["table.js"], name=text, subtitle=text, problems=[text], settings={text: {text: text}}, **context
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_text_stays_text(text):
    page = overview(text)
    page.encode("utf-8")
    parsed, plain = Parser(page), Parser(overview("x"))
    assert parsed.tags == plain.tags
    shown = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
    for element in ("h1", "dd", "dt", "li", "h3"):
        assert parsed.texts[element].strip() == shown


def test_a_page_loads_nothing_and_runs_only_its_own_script():
    parsed = Parser(overview("x"))
    assert parsed.loads == [] and parsed.tags.count("script") == 1
    assert "default-src 'none'" in parsed.policy and "script-src 'sha256-" in parsed.policy
    assert "unsafe-inline" not in re.search("script-src[^;]*", parsed.policy)[0]
    assert "sortBy" in parsed.texts["script"]
    assert not re.search(r"https?://|@import|url\(", parsed.texts["style"] + parsed.texts["script"])


@pytest.mark.parametrize(
    "name", ["a b#c?d%20", "../up", "c:\\x", "ü🧠", os.fsdecode(b"caf\xe9"), "javascript:alert(1)"]
)
def test_a_link_leads_to_the_file_of_that_name(name):
    link = link_to("report", name)
    folder, last = link.split("/")
    assert folder == "report" and not set(last) & set("#?:<>\"' \\")
    assert urllib.parse.unquote_to_bytes(last) == os.fsencode(name)
