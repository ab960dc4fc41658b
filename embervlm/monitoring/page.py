"""What the HTML report looks like."""

from __future__ import annotations

#: Headings of the parts, in order.
HOMES = {
    "stage1": "Stage 1: vision-language alignment",
    "stage2": "Stage 2: instruction tuning",
    "stage3": "Stage 3: robot selection",
    "stage4": "Stage 4: reasoning",
    "cross": "Across stages",
}

CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; display: flex; }
nav { flex: 0 0 300px; height: 100vh; position: sticky; top: 0; overflow-y: auto; padding: 1rem; background: #f6f6f6;
  font-size: 0.875rem; }
nav h2 { font-size: 1rem; margin: 0 0 0.5rem; }
nav ul, nav ol { margin: 0; padding-left: 1.1rem; }
a { color: #1a5fa8; }
main { flex: 1 1 auto; min-width: 0; max-width: 1000px; padding: 1rem 2rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.3rem; } h3 { font-size: 1.05rem; margin-bottom: 0.5rem; }
article { border-top: 1px solid #ddd; padding: 0.5rem 0 1rem; }
article p { margin: 0.4rem 0; }
img { max-width: 100%; height: auto; display: block; }
.plot { width: 100%; overflow: hidden; }
summary { cursor: pointer; color: #1a5fa8; padding: 0.4rem 0; }
.source { color: #555; font-size: 0.8125rem; }
@media (max-width: 800px) {
  body { display: block; }
  nav { position: static; height: auto; }
  main { padding: 0.75rem; }
  li { overflow-wrap: anywhere; }
}
@media print { nav { display: none; } }
"""
