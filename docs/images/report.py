#!/usr/bin/env python3
"""The picture of the READMEs, from the pages that `irori demo` writes.

    irori demo --output-dir DIR && docs/images/report.py DIR > docs/images/report.svg

The charts are those of the pages, with the pages' style sheet; this file only lays them out in one SVG."""

import html
import pathlib
import re
import sys

demo = pathlib.Path(sys.argv[1])
PAGES = {name: (demo / path).read_text() for name, path in
         [("run", "run/report.html"), ("held", "report.html"), ("train", "report-on-train.html")]}
WIDTH, MARGIN = 1000, 20

css = re.search(r"<style>(.*?)</style>", PAGES["run"], re.S)[1]
light, dark = re.findall(r":root \{.*?\}", css, re.S)[:2]
# Of the rest, what concerns charts: in a picture nothing else is laid out, and texts have one size on every screen.
rules = re.findall(r"([^{}]+?)(\{[^{}]*\})", css.split("@media (max-width")[0])
charts = "".join(select + rule for select, rule in rules if re.match(r"\s*\.(chart|line|bar|dot)\b", select))
css = f"{light} @media (prefers-color-scheme: dark) {{ {dark} }} {charts}"
parts, y = [], MARGIN
full, half = WIDTH - 2 * MARGIN, (WIDTH - 3 * MARGIN) / 2


def chart(page, title, heading, width, x=0):
    """A chart of a page as a card, placed at the present height; returns its own height."""
    body = re.search(rf'<svg class="chart" viewBox="0 0 ([\d.]+) ([\d.]+)"[^>]*>(<title>{re.escape(title)}.*?)</svg>', PAGES[page], re.S)
    w, h = float(body[1]), float(body[2])
    inner = width - 2 * MARGIN
    high = h * inner / w
    parts.append(f'<rect class="card" x="{x + MARGIN}" y="{y}" width="{width}" height="{high + 56:.0f}" rx="12"/>'
                 f'<text class="head" x="{x + 2 * MARGIN}" y="{y + 30}">{html.escape(heading)}</text>'
                 f'<svg class="chart{" small" if width < full else ""}" x="{x + 2 * MARGIN}" y="{y + 44}" width="{inner}" height="{high:.1f}" viewBox="0 0 {w} {h}">{body[3]}</svg>')
    return high + 56


y += chart("run", "Loss in nats per target token", "The run: loss (nats per target token)", full) + MARGIN
chart("train", "Accuracy with 95% intervals", "Questions it was trained on", half)
y += chart("held", "Accuracy with 95% intervals", "Questions it has never seen", half, half + MARGIN) + MARGIN
print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y:.0f}" role="img">'
      f"<title>What irori reports of its demonstration: the loss of the run, and accuracies before and after</title>"
      f"<style>{' '.join(css.split())} svg {{ font-family: system-ui, sans-serif; }} .page {{ fill: var(--paper); }} "
      f".card {{ fill: var(--card); stroke: var(--line); }} .head {{ fill: var(--ink); font-weight: 600; font-size: 15px; }} "
      f".small text {{ font-size: 19px; }} .small .tick {{ font-size: 17px; }}</style>"
      f'<rect class="page" width="{WIDTH}" height="{y:.0f}"/>{"".join(parts)}</svg>')
