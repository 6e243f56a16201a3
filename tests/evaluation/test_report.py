"""The report: hostile text stays text, nothing is loaded, the same answers give the same bytes; read in a real browser at both widths."""

import html
import json
import re
import subprocess
from html.parser import HTMLParser

import pytest

from evaluation.report import Facts, headline, write_report
from evaluation.table import summarise
from exchange.compose import compose
from exchange.records import Completion, Episode, Example, Instruction, Score
from tests.requirements import need

HOSTILE = "</dd><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }} \u202e | `x` \ud800"
EXAMPLES = [
    Example(id=f"q{i}", task="gsm8k", split="test", query=f"{HOSTILE} {i} + 1?", gold=str(i + 1), family=f"kind {i % 3}") for i in range(60)
]
FACTS = Facts(
    task="gsm8k", student="<b>student</b>", teacher="t", teacher_sha256="ab" * 32, commit="c0ffee",
    validation=((0, 0.4), (25, 0.8), (50, 0.9)), training=tuple((i, 0.3 + i / 100) for i in range(1, 51)),
)  # fmt: skip


def arm(name, right, text):
    episodes = []
    for i, example in enumerate(EXAMPLES):
        grade = float(right(i))
        instruction = Instruction(text=text, source="static" if text else "silence")
        episodes.append(
            Episode(
                example_id=example.id, arm=name, instruction=instruction, messages=compose(example.public(), instruction),
                completions=(Completion(text=f"{HOSTILE} #### {i}", prompt_tokens=20 + len(text), completion_tokens=9, latency_s=i / 7),),
                scores=(Score(value=grade, parts={"correct": grade}, extracted=str(i)),),
            )
        )  # fmt: skip
    return episodes


def episodes(names=("static:a", "static:b <i>", "trained")):
    found = {"raw": arm("raw", lambda i: i % 3 == 0, "")}
    found |= {name: arm(name, lambda i, k=k: (i + k) % 3 != 0, f"Advice {k} {HOSTILE}") for k, name in enumerate(names)}
    return found


def write(folder, found=None):
    folder.mkdir(exist_ok=True)
    found = found or episodes()
    summary = summarise(found, EXAMPLES)
    write_report(folder, f"title {HOSTILE}", FACTS, summary, EXAMPLES, found)
    return summary, (folder / "report.html").read_text()


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes = set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(name, value) for name, value in attrs]


def test_hostile_text_is_text_and_nothing_is_loaded(tmp_path):
    _, page = write(tmp_path)
    parser = Tags()
    parser.feed(page)
    assert not {"script", "img", "iframe", "i", "b"} & parser.tags
    assert not [name for name, _ in parser.attributes if name.startswith("on")]
    assert [value for name, value in parser.attributes if name in ("src", "href")] == ["data:,"]
    assert "default-src 'none'" in page and "@import" not in page and "url(" not in page
    assert html.escape(HOSTILE.replace("\ud800", "\\ud800"), quote=False).split("|")[0].replace("'", "&#39;") in page
    assert "49" not in re.findall(r"onerror=alert\(2\)&gt;(..)", page)


def test_the_markdown_keeps_its_tables(tmp_path):
    write(tmp_path)
    lines = (tmp_path / "report.md").read_text().splitlines()
    table = [line for line in lines if line.startswith("| static:b")]
    assert table and "<i>" not in "".join(lines) and "<script" not in "".join(lines)
    heads = [line for line in lines if line.startswith("| arm")]
    assert table[0].count(" | ") == heads[0].count(" | ")


def test_the_same_answers_give_the_same_bytes_whatever_the_time(tmp_path):
    write(tmp_path / "a")
    slower = {
        name: [e.model_copy(update={"completions": tuple(c.model_copy(update={"latency_s": 99.0, "cached": True}) for c in e.completions)})
               for e in run]
        for name, run in episodes().items()
    }  # fmt: skip
    write(tmp_path / "b", slower)
    for name in ("report.html", "report.md", "report.json", "evaluation.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_json_and_answers_beside_it(tmp_path):
    summary, _ = write(tmp_path)
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["eval"] == summary.model_dump(mode="json") and data["headline"] == headline(summary)
    rows = [json.loads(line) for line in (tmp_path / "evaluation.jsonl").read_text().splitlines()]
    assert len(rows) == 4 * 60 and {row["arm"] for row in rows} == {"raw", "static:a", "static:b <i>", "trained"}
    helped, harmed = data["questions"]
    # The trained arm (k = 2) is right where (i + 2) % 3 != 0: it helps i % 3 == 2 and harms nobody.
    assert [row["id"] for row in helped["rows"]] == [f"q{i}" for i in range(2, 60, 3)]
    assert harmed["rows"] == []


def test_an_evaluation_without_a_teacher_has_a_report_too(tmp_path):
    summary, page = write(tmp_path, {"raw": episodes()["raw"]})
    assert headline(summary) == "No trained arm was measured; raw is right on 33.3% of 60 questions."
    assert "No trained arm was measured" in page


PROBE = """<script>
addEventListener("load", () => {
  const texts = [...document.querySelectorAll("svg text")].map(t => t.getBoundingClientRect());
  const out = {
    width: innerWidth, scroll: document.documentElement.scrollWidth, plots: document.querySelectorAll("svg[aria-label]").length,
    smallest: Math.min(...texts.map(r => r.height)),
    outside: [...document.querySelectorAll("svg")].flatMap(s => {
      const box = s.getBoundingClientRect();
      return [...s.querySelectorAll("text")].filter(t => {
        const r = t.getBoundingClientRect();
        return r.left < box.left - 1 || r.right > box.right + 1 || r.top < box.top - 1 || r.bottom > box.bottom + 1;
      }).map(t => t.textContent);
    }),
    overlapping: [...document.querySelectorAll("svg")].flatMap(s => {
      const all = [...s.querySelectorAll("text")], found = [];
      for (let i = 0; i < all.length; i++) for (let j = 0; j < i; j++) {
        const a = all[i].getBoundingClientRect(), b = all[j].getBoundingClientRect();
        if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3)
          found.push([all[j].textContent, all[i].textContent]);
      }
      return found;
    }),
  };
  parent.postMessage(JSON.stringify(out), "*");
});
</script></head>"""


# Chromium has no window narrower than 500 pixels; a frame may be.
HOST = """<html><body style="margin:0"><script>
addEventListener("message", event => { document.title = "probe " + event.data; });
</script><iframe src="probed.html" width="WIDTH" height="3000" style="border:0"></iframe></body></html>"""


def browse(page, width, *, shot=None):
    """(what Chromium prints, its log): the DOM, or a screenshot at `shot`."""
    output = [f"--screenshot={shot}"] if shot else ["--dump-dom"]
    command = [
        str(need("chromium")), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr", "--v=0",
        f"--user-data-dir={page.parent / 'profile'}", f"--window-size={width},1600", *output, page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


@pytest.mark.slow
@pytest.mark.chromium
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser_it_is_readable_and_says_nothing_on_the_console(tmp_path, width):
    write(tmp_path)
    page = tmp_path / "report.html"
    shot = tmp_path / "shot.png"
    _, console = browse(page, width, shot=shot)
    assert console == []
    assert shot.stat().st_size > 20_000
    # A copy that may run a script measures what the page looks like.
    probed = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text()).replace("</head>", PROBE, 1)
    (tmp_path / "probed.html").write_text(probed)
    (tmp_path / "host.html").write_text(HOST.replace("WIDTH", str(width)))
    dom, console = browse(tmp_path / "host.html", 1600)
    assert console == []
    found = json.loads(html.unescape(re.search(r"<title>probe (.*?)</title>", dom, re.DOTALL)[1]))
    assert found["width"] == width and found["scroll"] <= width, "the page is wider than the screen"
    assert found["plots"] == 4
    assert found["smallest"] >= 11, "letters of a plot are too small"
    assert found["outside"] == [] and found["overlapping"] == []


@pytest.mark.slow
@pytest.mark.chromium
def test_the_console_would_be_heard(tmp_path):
    page = tmp_path / "broken.html"
    page.write_text("<html><body><script>console.error('oops'); nothing();</script></body></html>")
    assert len(browse(page, 390)[1]) == 2
