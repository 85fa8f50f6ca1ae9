"""HTML pages in one file that need no network: text, tables, videos and interactive charts.

Everything that comes from a file is escaped. In addition, a page forbids its browser to load
anything, and to execute any script but its own two, which it names by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from string import Template
from typing import Any

from tfpg.core.figures import DARK, LIGHT

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src $hashes; \
style-src 'unsafe-inline'; img-src data:; media-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
<h1>$title</h1>
$body
</main>
<script type="application/json" id="data">$data</script>
<script>$library</script>
<script>$script</script>
</body>
</html>
""")

_STYLE = f"""
:root {{
  --background: {LIGHT.background}; --text: {LIGHT.text}; --muted: {LIGHT.muted};
  --line: #8884; --soft: #8881;
}}
@media (prefers-color-scheme: dark) {{
  :root {{ --background: {DARK.background}; --text: {DARK.text}; --muted: {DARK.muted} }}
}}
body {{
  margin: 0; background: var(--background); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif;
}}
main {{ max-width: 900px; margin: 0 auto; padding: 24px 16px 64px }}
h1 {{ margin: 0; font-size: 28px; line-height: 1.25; overflow-wrap: anywhere }}
h2 {{ margin: 40px 0 8px; font-size: 19px }}
p {{ margin: 4px 0 8px; overflow-wrap: anywhere }}
.note, caption, figcaption {{ color: var(--muted); font-size: 14px }}
.scroll {{ overflow-x: auto }}
table {{ border-collapse: collapse; font-size: 15px; font-variant-numeric: tabular-nums }}
caption {{ text-align: left; padding: 8px 0 4px }}
th, td {{
  padding: 5px 24px 5px 0; border-bottom: 1px solid var(--line);
  text-align: left; vertical-align: top; overflow-wrap: break-word;
}}
th {{ font-weight: 600 }}
pre {{
  margin: 0 0 8px; padding: 10px 12px; border-radius: 6px; background: var(--soft);
  font: 14px/1.5 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere;
}}
button {{ font: inherit; font-size: 14px }}
video {{ max-width: 100%; max-height: 480px; border-radius: 6px }}
figure {{ margin: 0; min-width: 0 }}
.large .chart {{ height: 360px }}
.chart {{ height: 170px; overflow: hidden }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(260px, 1fr)); gap: 20px }}
"""

_SCRIPT = """
const {charts, themes} = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");

function draw() {
  const theme = themes[+dark.matches];
  const axis = {gridcolor: "#8883", linecolor: "#8888", zeroline: false, fixedrange: false};
  document.querySelectorAll(".chart").forEach((element, i) => {
    const many = charts[i].length > 12;
    const traces = charts[i].map(trace => {
      const color = trace.meta < 0 ? theme.muted : theme.lines[trace.meta % theme.lines.length];
      const step = many ? "%{x:,d}: " : "";
      return {...trace, line: {...trace.line, color}, marker: {color},
        hovertemplate: step + "%{y:.4g}  %{fullData.name}<extra></extra>",
        hoverlabel: {bordercolor: color}};
    });
    const large = element.parentElement.classList.contains("large");
    Plotly.react(element, traces, {
      paper_bgcolor: "transparent", plot_bgcolor: "transparent",
      font: {family: "system-ui, sans-serif", size: large ? 13 : 11, color: theme.text},
      hoverlabel: {bgcolor: theme.background, font: {color: theme.text}},
      hovermode: many ? "closest" : "x", hoverdistance: 50,
      xaxis: {...axis, hoverformat: ",d", rangemode: "tozero", nticks: large ? 8 : 4,
        title: large ? {text: "Environment steps"} : undefined},
      yaxis: {...axis, nticks: large ? 8 : 4, automargin: true},
      showlegend: large && traces.some(trace => trace.showlegend !== false),
      legend: {orientation: "h", x: 0, y: 1, yanchor: "bottom"},
      margin: large ? {l: 48, r: 8, t: 8, b: 44} : {l: 36, r: 4, t: 6, b: 22},
    }, {responsive: true, displayModeBar: false});
  });
}

draw();
dark.addEventListener("change", draw);
document.querySelectorAll("button").forEach(button => button.addEventListener("click", async () => {
  await navigator.clipboard.writeText(button.previousElementSibling.textContent);
  button.textContent = "Copied";
}));
"""


@dataclass
class HtmlPage:
    """The content of a page, in the order in which it is added.

    Attributes:
        title: The title, not escaped.
    """

    title: str
    _body: list[str] = field(default_factory=list)
    _charts: list[list[dict[str, Any]]] = field(default_factory=list)

    def heading(self, text: str) -> None:
        self._body.append(f"<h2>{escape(text)}</h2>")

    def text(self, text: str) -> None:
        self._body.append(f"<p>{escape(text)}</p>")

    def note(self, text: str) -> None:
        self._body.append(f'<p class="note">{escape(text)}</p>')

    def code(self, text: str) -> None:
        """Add a block of code with a button that copies it."""
        self._body.append(f"<pre>{escape(text)}</pre><button>Copy</button>")

    def table(
        self, rows: Iterable[Sequence[object]], names: Sequence[str] = (), caption: str = ""
    ) -> None:
        """Add a table. The first cell of each row is its heading.

        Args:
            rows: The cells of each row.
            names: The headings of the columns.
            caption: A line above the table.
        """
        head = "".join(f"<th>{escape(name)}</th>" for name in names)
        lines = [f"<caption>{escape(caption)}</caption>" * bool(caption), f"<tr>{head}</tr>"]
        for first, *others in rows:
            cells = "".join(f"<td>{escape(str(cell))}</td>" for cell in others)
            lines.append(f"<tr><th>{escape(str(first))}</th>{cells}</tr>")
        self._body.append(f'<div class="scroll"><table>{"".join(lines)}</table></div>')

    def video(self, content: bytes) -> None:
        """Add an MP4 video."""
        data = base64.b64encode(content).decode()
        self._body.append(
            f'<video controls loop muted playsinline src="data:video/mp4;base64,{data}"></video>'
        )

    def chart(self, traces: list[dict[str, Any]]) -> None:
        """Add a chart over the full width.

        Args:
            traces: What `line` returned.
        """
        self._body.append(f'<figure class="large">{self._placeholder(traces)}</figure>')

    def small_charts(self, charts: dict[str, list[dict[str, Any]]]) -> None:
        """Add small charts next to each other, with their titles."""
        figures = (
            f"<figure><figcaption>{escape(title)}</figcaption>{self._placeholder(traces)}</figure>"
            for title, traces in charts.items()
        )
        self._body.append(f'<div class="charts">{"".join(figures)}</div>')

    def _placeholder(self, traces: list[dict[str, Any]]) -> str:
        self._charts.append(traces)
        return '<div class="chart"></div>'

    def html(self) -> str:
        """Return the page.

        Raises:
            ImportError: Plotly is not installed.
        """
        library = plotly_script()
        data = {"charts": self._charts, "themes": [LIGHT._asdict(), DARK._asdict()]}
        hashes = (hashlib.sha256(each.encode()).digest() for each in (library, _SCRIPT))
        return _PAGE.substitute(
            title=escape(self.title),
            style=_STYLE,
            body="\n".join(self._body),
            data=json.dumps(data, separators=(",", ":")).replace("<", r"\u003c"),
            library=library,
            script=_SCRIPT,
            hashes=" ".join(f"'sha256-{base64.b64encode(each).decode()}'" for each in hashes),
        )


def plotly_script() -> str:
    """Return the JavaScript of Plotly.

    Raises:
        ImportError: Plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ImportError("Reports need Plotly: pip install plotly") from error
    return get_plotlyjs()


def line(
    steps: Iterable[float],
    values: Iterable[float],
    name: str,
    color: int,
    *,
    thin: bool = False,
    legend: bool = True,
) -> dict[str, Any]:
    """Return a line of a chart.

    Args:
        steps: Environment steps ``[K]``.
        values: Values ``[K]``, with six significant digits in the page.
        name: Its name in the legend and where the pointer is.
        color: Index of a color of `tfpg.core.figures.Theme.lines`. -1: the muted color.
        thin: Whether the line is in the background.
        legend: Whether the legend lists it.

    Example:
        >>> line([0, 10], [1, 2], "a < b", 0)["name"]
        'a &lt; b'
    """
    y = [float(f"{value:.6g}") for value in values]
    return {
        "x": [int(step) for step in steps],
        "y": y,
        "name": escape(name, quote=False),  # Plotly reads it as HTML
        "mode": "lines" if len(y) > 1 else "markers",
        "line": {"width": 1.2 if thin else 2},
        "opacity": 0.7 if thin else 1,
        "showlegend": legend,
        "meta": color,
    }
