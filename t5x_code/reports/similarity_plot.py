"""Distributions of similarities as one picture: a row per kind of program, a curve per model; SVG, no dependency."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

WIDTH, LABEL, ROW, TOP, BOTTOM = 760, 190, 64, 56, 44
COLOURS = ("#8b8f98", "#2f6fde", "#d9822b", "#2e9e6b")
KIND_NAMES = {
    "pos": "another solution",
    "obf": "names obfuscated",
    "neg": "another problem",
    "lsh": "lines shuffled",
    "tsh": "tokens shuffled",
    "kwr": "keywords replaced",
    "syr": "symbols replaced",
    "obf_lsh": "obfuscated, then lines shuffled",
}
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f } .small { font-size: 11px; fill: #6a737d }
  .title { font-size: 15px; font-weight: 600 } .axis { stroke: #d0d7de } .paper { fill: #ffffff }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small { fill: #9198a1 } .axis { stroke: #3d444d } .paper { fill: #0d1117 }
  }
"""


def draw_similarities(models: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> str:
    """Text of an SVG file.

    Args:
        models: by model's name and kind of candidate, cosines in [-1, 1] to the query; what is no number is left out.
        title: stands above.
    """
    models = {
        name: {kind: [value for value in values if np.isfinite(value)] for kind, values in of_model.items()}
        for name, of_model in models.items()
    }
    kinds = list(dict.fromkeys(kind for of_model in models.values() for kind in of_model))
    kinds.sort(key=lambda kind: list(KIND_NAMES).index(kind) if kind in KIND_NAMES else len(KIND_NAMES))
    values = [value for of_model in models.values() for kind in of_model.values() for value in kind]
    low = float(np.clip(np.floor(10 * min(values, default=0.0)) / 10, -1.0, 0.9))  # all may be 1
    height = TOP + ROW * len(kinds) + BOTTOM
    inner = WIDTH - LABEL - 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{height}"/>',
        f'<text class="title" x="16" y="26">{escape(title)}</text>',
    ]
    for number, name in enumerate(models):
        x = 16 + 130 * number
        parts.append(f'<rect x="{x}" y="36" width="12" height="12" rx="2" fill="{_colour(number)}"/>')
        parts.append(f'<text class="small" x="{x + 18}" y="46">{escape(name)}</text>')
    for row, kind in enumerate(kinds):
        base = TOP + ROW * (row + 1)
        parts.append(f'<line class="axis" x1="{LABEL}" x2="{LABEL + inner}" y1="{base}" y2="{base}"/>')
        parts.append(f'<text x="16" y="{base - 24}">{escape(kind)}</text>')
        parts.append(f'<text class="small" x="16" y="{base - 9}">{escape(KIND_NAMES.get(kind, ""))}</text>')
        for number, of_model in enumerate(models.values()):
            if of_model.get(kind):
                parts += _curve(of_model[kind], low, base, inner, _colour(number))
    for tick in np.linspace(low, 1, 6):
        x = LABEL + inner * (tick - low) / (1 - low)
        parts.append(f'<text class="small" x="{x:.1f}" y="{height - 24}" text-anchor="middle">{tick:.2f}</text>')
    middle = LABEL + inner / 2
    parts.append(
        f'<text class="small" x="{middle}" y="{height - 8}" text-anchor="middle">cosine similarity to the query; '
        "a stroke marks the median</text>"
    )
    return "\n".join([*parts, "</svg>", ""])


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _curve(values: Sequence[float], low: float, base: float, inner: float, colour: str) -> list[str]:
    """A smoothed histogram over [low, 1], as high as its row, and its median."""
    grid = np.linspace(low, 1, 161)
    spread = max(0.012 * (1 - low), 0.6 * float(np.std(values)) * len(values) ** -0.2)
    density = np.exp(-0.5 * ((grid[:, None] - np.asarray(values)) / spread) ** 2).sum(1)
    heights = density / density.max() * (ROW - 14)
    points = " ".join(
        f"{LABEL + inner * (x - low) / (1 - low):.1f},{base - y:.1f}" for x, y in zip(grid, heights, strict=True)
    )
    median = LABEL + inner * (float(np.median(values)) - low) / (1 - low)
    return [
        f'<polygon points="{LABEL},{base} {points} {LABEL + inner},{base}" fill="{colour}" fill-opacity="0.25" '
        f'stroke="{colour}" stroke-width="1.5"/>',
        f'<line x1="{median:.1f}" x2="{median:.1f}" y1="{base}" y2="{base - ROW + 14}" stroke="{colour}" '
        'stroke-width="2"/>',
    ]
