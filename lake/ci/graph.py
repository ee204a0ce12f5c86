"""The part of the project that a change touches, as a picture: SVG for HTML, Mermaid for Markdown.

Layers go from left to right. Within a layer nodes are ordered by where their neighbours are, so
that few lines cross; the graphs are small, and no layout engine is needed.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from typing import Any, Literal

from lake.manifest import below, table_of

Role = Literal["modified", "child", "parent", "exposure"]
COLORS: Mapping[Role, tuple[str, str, str]] = {  # fill, line, words
    "modified": ("#fde68a", "#b45309", "modified"),
    "child": ("#bfdbfe", "#1d4ed8", "built because of it"),
    "parent": ("#f1f5f9", "#94a3b8", "as published"),
    "exposure": ("#ddd6fe", "#6d28d9", "uses it"),
}
FAILED = "#dc2626"
CHARACTER, PADDING, HEIGHT, GAP, BETWEEN, MARGIN = 7.2, 14, 34, 18, 64, 8
"""Pixels: of a letter, beside the words, of a box, between boxes, between layers, around it all."""


@dataclass(frozen=True)
class Node:
    """A table, or an exposure; `failed` if its build, a test or a gate of it did."""

    name: str
    role: Role
    failed: bool = False

    @property
    def width(self) -> float:
        return len(self.name) * CHARACTER + 2 * PADDING


@dataclass(frozen=True)
class Graph:
    """Nodes, and edges from what is read to what reads it, by their names."""

    nodes: tuple[Node, ...] = ()
    edges: tuple[tuple[str, str], ...] = ()
    by_name: dict[str, Node] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {node.name: node for node in self.nodes})


def touched(
    manifest: Mapping[str, Any], modified: set[str], failed: set[str], unreached: set[str]
) -> Graph:
    """What is modified, all that is below it, and what these read; `modified` are dbt's ids.

    `failed` are names of tables; `unreached`, of exposures that are below, but use nothing of what
    has changed: they are left out.
    """
    names = {
        key: str(node["name"]) if kind == "exposures" else table_of(node)
        for kind in ("nodes", "sources", "exposures")
        for key, node in manifest[kind].items()
        if node["resource_type"] in ("model", "seed", "snapshot", "source", "exposure")
    }
    changed = modified & set(names)
    built = {key for key in below(changed, manifest) & set(names) if names[key] not in unreached}
    read = {parent for key in changed | built for parent in manifest["parent_map"].get(key, ())}
    shown = changed | built | (read & set(names))

    def role(key: str) -> Role:
        if key in changed:
            return "modified"
        if key not in built:
            return "parent"
        return "exposure" if key in manifest["exposures"] else "child"

    nodes = [Node(names[key], role(key), names[key] in failed) for key in shown]
    edges = [
        (names[parent], names[key])
        for key in shown
        for parent in manifest["parent_map"].get(key, ())
        if parent in shown
    ]
    by_name = sorted(nodes, key=lambda node: node.name)
    return Graph(tuple(by_name), tuple(sorted(edges)))


def svg(graph: Graph) -> str:
    """The graph as an SVG element that needs nothing from elsewhere."""
    columns, ways = _layout(graph)
    places: dict[str, tuple[float, float, float]] = {}  # left, middle and width of each box
    tallest, left = max(map(len, columns), default=0), float(MARGIN)
    for column in columns:
        widest = max(
            (graph.by_name[name].width for name in column if name in graph.by_name), default=0
        )
        top = MARGIN + (tallest - len(column)) * (HEIGHT + GAP) / 2
        for row, name in enumerate(column):
            places[name] = left, top + row * (HEIGHT + GAP) + HEIGHT / 2, widest
        left += widest + BETWEEN
    width, height = left - BETWEEN + MARGIN, tallest * (HEIGHT + GAP) - GAP + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" role="img" '
        'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="12">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="#64748b"/></marker></defs>',
    ]
    for way in ways:
        parts.append(
            f'<path d="{_line([places[name] for name in way])}" fill="none" stroke="#64748b" '
            'marker-end="url(#tip)"/>'
        )
    for node in graph.nodes:
        x, middle, width = places[node.name]
        fill, line, _ = COLORS[node.role]
        line, thick = (FAILED, 3.0) if node.failed else (line, 1.5)
        parts.append(
            f'<rect x="{x:.0f}" y="{middle - HEIGHT / 2:.0f}" width="{width:.0f}" '
            f'height="{HEIGHT}" rx="6" fill="{fill}" stroke="{line}" stroke-width="{thick}"/>'
            f'<text x="{x + width / 2:.0f}" y="{middle + 4:.0f}" text-anchor="middle" '
            f'fill="#0f172a">{escape(node.name)}</text>'
        )
    return "".join([*parts, "</svg>"])


def _line(places: Sequence[tuple[float, float, float]]) -> str:
    """A curve from the right of the first place, through the next ones, to the left of the last."""
    x, y, width = places[0]
    drawn = [f"M{x + width:.0f} {y:.0f}"]
    at = x + width
    for to_x, to_y, wide in places[1:]:
        bend = (to_x - at) / 2
        drawn.append(f"C{at + bend:.0f} {y:.0f} {to_x - bend:.0f} {to_y:.0f} {to_x:.0f} {to_y:.0f}")
        at, y = to_x, to_y
        if to_x != places[-1][0]:
            drawn.append(f"H{to_x + wide:.0f}")
            at = to_x + wide
    return "".join(drawn)


def _layout(graph: Graph) -> tuple[list[list[str]], list[list[str]]]:
    """Names by layer, each right of all that it reads; and each edge's way, layer by layer.

    An edge that passes a layer has a place there, which is nobody's box.
    """
    reads: dict[str, list[str]] = {node.name: [] for node in graph.nodes}
    for parent, name in graph.edges:
        reads[name].append(parent)
    depth: dict[str, int] = {}

    def place(name: str) -> int:
        if name not in depth:
            depth[name] = 1 + max((place(parent) for parent in reads[name]), default=-1)
        return depth[name]

    for node in graph.nodes:
        place(node.name)
    for name in [name for name in depth if not reads[name]]:  # beside what reads it
        depth[name] = (
            min((depth[to] for parent, to in graph.edges if parent == name), default=1) - 1
        )
    ways = []
    for parent, name in graph.edges:
        passed = [f"{parent} {name} {layer}" for layer in range(depth[parent] + 1, depth[name])]
        depth |= {one: depth[parent] + 1 + n for n, one in enumerate(passed)}
        ways.append([parent, *passed, name])
    last = max(depth.values(), default=-1)
    columns = [[name for name in depth if depth[name] == layer] for layer in range(last + 1)]
    _untangle(columns, [step for way in ways for step in pairwise(way)])
    return columns, ways


def _untangle(columns: list[list[str]], steps: Sequence[tuple[str, str]]) -> None:
    """Order each layer by the mean place of each one's neighbours, from both sides in turn."""
    left, right = defaultdict(list), defaultdict(list)
    for one, other in steps:
        left[other].append(one)
        right[one].append(other)
    for near, order in ((left, columns), (right, columns[::-1])) * 4:  # it settles soon
        at = {name: row - len(column) / 2 for column in columns for row, name in enumerate(column)}
        for column in order:
            for name in column:
                if near[name]:
                    at[name] = sum(at[one] for one in near[name]) / len(near[name])
            column.sort(key=at.__getitem__)
            at |= {name: row - len(column) / 2 for row, name in enumerate(column)}


def mermaid(graph: Graph) -> str:
    """The graph as GitHub and GitLab render it from Markdown."""
    numbered = {node.name: f"n{i}" for i, node in enumerate(graph.nodes)}
    lines = ["graph LR"]
    for node in graph.nodes:
        shown = node.name.replace('"', "'")
        lines.append(f'    {numbered[node.name]}["{shown}"]:::{node.role}')
    lines += [f"    {numbered[parent]} --> {numbered[name]}" for parent, name in graph.edges]
    for role, (fill, line, _) in COLORS.items():
        lines.append(f"    classDef {role} fill:{fill},stroke:{line},color:#0f172a")
    failed = [numbered[node.name] for node in graph.nodes if node.failed]
    if failed:
        lines.append(f"    style {','.join(failed)} stroke:{FAILED},stroke-width:3px")
    return "\n".join(lines)
