"""latest.json as a chart: an SVG that stands alone, the same bytes for the same numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_WIDTH, _LABEL, _RIGHT, _TOP = 860, 280, 70, 64
_BAR, _GAP = 12, 14
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#222}.small{font-size:11px;fill:#666}.bold{font-weight:600}"
    ".c0{fill:#4c78a8}.c1{fill:#f58518}.c2{fill:#54a24b}.theirs{opacity:.55}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.small{fill:#999}}"
)


def chart(results: Mapping[str, Any]) -> str:
    """Draw thousand tokens a second, a group of bars for each system, a bar for each corpus; fastest system first."""
    corpora = list(results["corpora"])
    speeds = _speeds(results)
    most = max((value for by in speeds.values() for value in by.values()), default=1.0)
    group = len(corpora) * _BAR + _GAP
    height = _TOP + group * len(speeds) + 8
    parts = list(_legend(results, corpora))
    for number, (name, by) in enumerate(speeds.items()):
        facts = results["systems"][name]
        top = _TOP + number * group
        parts.append(_label(facts["title"], top + len(corpora) * _BAR / 2 + 4, is_ours=facts["is_ours"]))
        parts += _bars(corpora, by, top, most, kind="" if facts["is_ours"] else " theirs")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">'
        f"<title>Tokens a second by system and corpus</title><style>{_STYLE}</style>{''.join(parts)}</svg>\n"
    )


def _speeds(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    speeds: dict[str, dict[str, float]] = {}
    for row in results["rows"]:
        speeds.setdefault(row["system"], {})[row["corpus"]] = row["tokens_per_s"] / 1000
    return dict(sorted(speeds.items(), key=lambda item: -sum(item[1].values())))


def _legend(results: Mapping[str, Any], corpora: list[str]) -> Iterator[str]:
    threads = results["threads"]
    yield f'<text class="bold" x="8" y="20">Thousand tokens a second, all-MiniLM-L6-v2, {threads} threads</text>'
    yield f'<text class="small" x="8" y="38">{escape(results["machine"]["machine"])}</text>'
    for number, corpus in enumerate(corpora):
        x = _LABEL + number * 90
        yield f'<rect class="c{number}" x="{x}" y="46" width="10" height="10"/>'
        yield f'<text class="small" x="{x + 15}" y="55">{escape(corpus)}</text>'


def _label(title: str, y: float, *, is_ours: bool) -> str:
    weight = ' class="bold"' if is_ours else ""
    return f'<text{weight} x="{_LABEL - 10}" y="{y:.1f}" text-anchor="end">{escape(title)}</text>'


def _bars(corpora: list[str], by: Mapping[str, float], top: float, most: float, *, kind: str) -> Iterator[str]:
    for number, corpus in enumerate(corpora):
        if corpus in by:
            y = top + number * _BAR
            length = by[corpus] / most * (_WIDTH - _LABEL - _RIGHT)
            yield f'<rect class="c{number}{kind}" x="{_LABEL}" y="{y}" width="{length:.1f}" height="{_BAR - 2}"/>'
            yield f'<text class="small" x="{_LABEL + length + 5:.1f}" y="{y + 9}">{by[corpus]:.1f}</text>'
