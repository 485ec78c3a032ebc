"""Codebook patterns drawn: a column a step, a row a codebook, in each cell the frame whose code is predicted there.

These are the drawings of Figure 1 of arXiv:2306.05284 for any pattern: as an SVG that follows the reader's light or
dark theme, and as text for a terminal. An empty cell holds the special token.
"""

from html import escape

from model.lm.patterns import Pattern

CELL, GAP, LEFT, TOP, BOTTOM = 30, 3, 84, 34, 12
"""Side of a cell, space between cells, and margins, pixels."""

STYLE = """
text { font: 12px ui-sans-serif, system-ui, sans-serif; fill: #57606a; }
.title { font-weight: 600; fill: #24292f; }
.code { font-weight: 600; fill: #ffffff; }
.empty { fill: none; stroke: #8c959f; stroke-dasharray: 2 2; opacity: 0.6; }
@media (prefers-color-scheme: dark) { text { fill: #8b949e; } .title { fill: #e6edf3; } }
"""

HUES = ("#0b6e99", "#b35900", "#5b8c2a", "#8250c4")
"""Colours of the codebooks, used in rotation. White digits are readable on each, and each on white and black pages."""


def pattern_cells(pattern: Pattern) -> list[list[int | None]]:
    """Return the frame, counted from 1, whose code is at each codebook and step, [K][S]; None is the special token.

    Final steps that hold only frames past the end (the tail that training cuts) are left out.
    """
    cells: list[list[int | None]] = [[None] * len(pattern.layout) for _ in range(pattern.codebooks)]
    last = 0
    for step, coordinates in enumerate(pattern.layout):
        for frame, codebook in coordinates:
            if frame < pattern.frames:
                cells[codebook][step] = frame + 1
                last = step
    return [row[: last + 1] for row in cells]


def pattern_text(pattern: Pattern) -> str:
    """Draw the pattern for a terminal."""
    cells = pattern_cells(pattern)
    width = max(len(str(pattern.frames)), len(str(len(cells[0]) - 1)))
    margin = len(f"codebook {pattern.codebooks}")
    lines = ["step".ljust(margin) + "".join(f" {step:>{width}}" for step in range(len(cells[0])))]
    for codebook, row in enumerate(cells, start=1):
        shown = "".join(f" {'·' if frame is None else frame:>{width}}" for frame in row)
        lines.append(f"codebook {codebook}".ljust(margin) + shown)
    return "\n".join(lines)


def pattern_svg(pattern: Pattern, title: str) -> str:
    """Draw the pattern as an SVG image with `title` over it."""
    cells = pattern_cells(pattern)
    pitch = CELL + GAP
    width = LEFT + len(cells[0]) * pitch + GAP
    height = TOP + len(cells) * pitch + BOTTOM + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{escape(title)}">',
        f"<style>{STYLE}</style>",
        f'<text class="title" x="4" y="18">{escape(title)}</text>',
    ]
    for codebook, row in enumerate(cells):
        y = TOP + codebook * pitch
        parts.append(f'<text x="4" y="{y + CELL // 2 + 4}">codebook {codebook + 1}</text>')
        for step, frame in enumerate(row):
            x = LEFT + step * pitch
            if frame is None:
                parts.append(f'<rect class="empty" x="{x}" y="{y}" width="{CELL}" height="{CELL}" rx="5"/>')
                continue
            hue = HUES[codebook % len(HUES)]
            parts.append(f'<rect fill="{hue}" x="{x}" y="{y}" width="{CELL}" height="{CELL}" rx="5"/>')
            centre = f'x="{x + CELL // 2}" y="{y + CELL // 2 + 4}"'
            parts.append(f'<text class="code" {centre} text-anchor="middle">{frame}</text>')
    baseline = TOP + len(cells) * pitch + BOTTOM
    parts.append(f'<text x="4" y="{baseline}">step</text>')
    for step in range(len(cells[0])):
        middle = LEFT + step * pitch + CELL // 2
        parts.append(f'<text x="{middle}" y="{baseline}" text-anchor="middle">{step}</text>')
    return "\n".join([*parts, "</svg>", ""])
