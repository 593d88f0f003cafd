"""Text in pages is text: nothing that a file name or a setting holds becomes markup, script or address."""

import html.parser
import json
import os
import re
import urllib.parse

import pytest

from jaxbrats.report.pages.markup import Markup, escape, json_block, link_to, page, tag


def test_text_is_escaped_and_markup_is_not():
    made = tag("p", "<b>", Markup("<i>"), 3, None, ["a", ("&",)], class_="x\"y'", hidden=True, title=None, data_n=0)
    assert made == '<p class="x&quot;y&#x27;" hidden data-n="0">&lt;b&gt;<i>3a&amp;</p>'
    assert tag("br") == "<br>"
    assert tag("meta", name="a") == '<meta name="a">'


@pytest.mark.parametrize("text", ["a\nb", "\x1b[31m", "‮evil", os.fsdecode(b"caf\xe9")])
def test_what_cannot_be_printed_is_written_as_an_escape(text):
    assert escape(text).isprintable() and escape(text).encode("utf-8")


def test_data_cannot_end_its_element():
    value = {"</script><!--": "</SCRIPT>&\u2028", "n": [1.5, None]}
    block = json_block("x", value)
    assert block.count("<") == 2
    assert json.loads(re.search(">(.*)<", block)[1]) == value
    with pytest.raises(ValueError):
        json_block("x", float("nan"))


@pytest.mark.parametrize(
    "name", ["a b#c?d%20", "../up", "c:\\x", "ü🧠", os.fsdecode(b"caf\xe9"), "javascript:alert(1)"]
)
def test_a_link_leads_to_the_file_of_that_name(name):
    link = link_to("report", name)
    folder, last = link.split("/")
    assert folder == "report" and not set(last) & set("#?:<>\"' \\")
    assert urllib.parse.unquote_to_bytes(last) == os.fsencode(name)


def test_a_page_loads_nothing_and_runs_only_its_own_script():
    class Parser(html.parser.HTMLParser):
        now, policy, texts, loads = "", "", {}, []

        def handle_starttag(self, name, attributes):
            attributes = dict(attributes)
            self.now = name
            self.loads += [value for key, value in attributes.items() if key in ("src", "href", "action", "data")]
            if attributes.get("http-equiv") == "Content-Security-Policy":
                self.policy = attributes["content"]

        def handle_data(self, data):
            self.texts[self.now] = self.texts.get(self.now, "") + data

    parser = Parser()
    parser.feed(page("<t>", tag("main", "<x>"), ["table.js"]))
    assert parser.loads == []
    assert "default-src 'none'" in parser.policy and "script-src 'sha256-" in parser.policy
    assert "unsafe-inline" not in re.search("script-src[^;]*", parser.policy)[0]
    assert parser.texts["title"] == "<t>" and parser.texts["main"] == "<x>\n"
    assert "sortBy" in parser.texts["script"]
    assert not re.search(r"https?://|@import|url\(", parser.texts["style"] + parser.texts["script"])
