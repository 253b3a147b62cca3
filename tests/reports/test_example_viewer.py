"""The page of examples: roles by hand, one self-contained file, and what a browser makes of it."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from t5x_code.reports.example_viewer import ShownRow, ShownTokens, render, roles_of

EOD, SEP, EOM, MASK = 0, 1, 2, 3
TOKENS = ShownTokens(lambda token: f"</script>{token}\n" if token == 9 else f"t{token}", {EOD, SEP, EOM, MASK}, {SEP})


def arrays_of(targets, segments, attend_to=None, length=12):
    used = len(targets)
    starts = [segments.index(segment) for segment in segments]

    def padded(values):
        return np.array([*values, *[0] * (length - used)], np.int32)

    return {
        "targets": padded(targets),
        "inputs": padded([EOD if i in starts else targets[i - 1] for i in range(used)]),
        "loss_weights": padded([1] * used).astype(np.float32),
        "positions": padded([i - start for i, start in enumerate(starts)]),
        "segment_ids": padded(segments),
        "attend_from": padded(starts),
        "attend_to": padded(attend_to or range(1, used + 1)),
    }


CORRUPTED = arrays_of([5, MASK, 6, EOD, SEP, MASK, 9, EOM, 7, EOD], [1] * 8 + [2] * 2)
PREFIXED = arrays_of([5, 6, 7, 8, EOD], [1] * 5, attend_to=[3, 3, 3, 4, 5])


def test_roles_by_hand():
    padding, source, prefix, target, sentinel = range(5)
    s, c = sentinel, source
    assert roles_of(CORRUPTED, TOKENS).tolist() == [c, s, c, s, s, s, target, s, c, s, padding, padding]
    assert roles_of(PREFIXED, TOKENS).tolist() == [prefix, prefix, c, c, s, *[padding] * 7]


ROWS = [
    ShownRow(0, 0, "code/span_corruption", "epoch 0, row 3", CORRUPTED, ("t5</script>", "t7")),
    ShownRow(1, 0, "code/prefix_lm", "epoch 0, row 1", PREFIXED, ("t5",)),
]


@pytest.fixture
def page(tmp_path):
    return page_of(ROWS, tmp_path)


def page_of(rows, folder):
    file = folder / "examples.html"
    file.write_text(render(rows, TOKENS, "gin/x.gin"), encoding="utf-8")
    return file


def test_the_page_needs_no_network_and_holds_the_rows(page):
    text = page.read_text()
    assert not re.search(r"https?://|src=|href=|@import|url\(", text)
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])
    first, second = data["rows"]
    assert [data["ids"][token] for token in first["targets"]] == CORRUPTED["targets"][:10].tolist()
    assert first["segments"] == [[0, 8, "t5</script>"], [8, 10, "t7"]]
    assert (first["fill"], first["padding"], second["trained"]) == (10 / 12, 2, 1.0)
    assert [cells[0] for cells in data["table"]] == ["stream", "code/prefix_lm", "code/span_corruption"]
    assert "prefers-color-scheme: dark" in text


def shown_by_browser(page, script):
    """The page as a browser has it a minute of its own clock after a script began, and a second after it was drawn.

    Rows are made when they are drawn. On a busy machine that minute may be over before: then it is tried again.
    """
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium")
    script += "requestAnimationFrame(() => setTimeout(() => { document.body.dataset.drawn = 'yes'; }, 1000));"
    page.write_text(page.read_text().replace("</body>", f"<script>{script}</script></body>"))
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=60000", "--dump-dom"]
    for _ in range(10):
        shown = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
        if 'data-drawn="yes"' in shown.stdout:
            return shown.stdout
    pytest.fail("the browser drew nothing in ten minutes of its own clock")


def test_a_browser_shows_every_token(page):
    click_on_the_second_card = """
    const waiting = setInterval(() => {
      const place = document.querySelectorAll('.card')[1].querySelector('[data-at="0"]');
      if (!place) return;
      clearInterval(waiting);
      place.dispatchEvent(new MouseEvent('click', {bubbles: true}));
      document.body.dataset.seen = document.querySelectorAll('.on').length;
    }, 100);"""
    dom = shown_by_browser(page, click_on_the_second_card)
    assert len(re.findall(r"<span[^>]* data-at=", dom)) == 15
    assert len(re.findall(r'class="segment"', dom)) == 3
    assert dom.count("&lt;/script&gt;") == 2  # text, never markup
    assert 'data-seen="3"' in dom  # a prefix of three inputs


def test_rows_far_below_are_printed_too(tmp_path):
    count_before_and_in_print = """
    const made = () => document.querySelectorAll('[data-at="0"]').length;
    const waiting = setInterval(() => {
      if (!made()) return;
      clearInterval(waiting);
      document.body.dataset.before = made();
      window.dispatchEvent(new Event('beforeprint'));
      document.body.dataset.printed = made();
    }, 100);"""
    dom = shown_by_browser(page_of(ROWS * 100, tmp_path), count_before_and_in_print)
    assert 0 < int(re.search(r'data-before="(\d+)"', dom)[1]) < 200
    assert 'data-printed="200"' in dom
