"""The picture of what a change touches: boxes apart from each other, and clear of lines."""

from itertools import pairwise
from xml.etree import ElementTree

from lake.ci.graph import Graph, Node, mermaid, svg, touched
from lake.manifest import manifest

HISTORY = "model.lakehouse.loans_history"
SVG = "{http://www.w3.org/2000/svg}"


def drawn(graph: Graph) -> tuple[dict[str, tuple[float, float, float]], list[list[str]]]:
    """Boxes by name, as (left, right, middle), and the commands of each line's path."""
    root = ElementTree.fromstring(svg(graph))
    names = [text.text or "" for text in root.iter(f"{SVG}text")]
    rects = [
        [float(rect.attrib[side]) for side in ("x", "y", "width", "height")]
        for rect in root.iter(f"{SVG}rect")
    ]
    boxes = {
        name: (x, x + width, y + height / 2)
        for name, (x, y, width, height) in zip(names, rects, strict=True)
    }
    lines = [path.attrib["d"] for path in root.findall(f"{SVG}path")]
    return boxes, [line.replace("C", "|C").replace("H", "|H").split("|") for line in lines]


def test_what_is_modified_all_below_it_and_what_these_read_are_shown() -> None:
    unreached = {"loan_approval_api", "loan_approval_report"}
    graph = touched(manifest(), {HISTORY}, {"gold.fct_loans"}, unreached)
    roles = {node.name: node.role for node in graph.nodes if node.role != "exposure"}
    assert roles == {
        "silver.loans_history": "modified",
        "silver.loans": "child",
        "silver.loans_quarantine": "child",
        "gold.fct_loans": "child",
        "gold.agg_loan_approvals": "child",
        "gold.ftr_loans": "child",
        "silver.loan_payments": "parent",
        "bronze.loan": "parent",
        "bronze.loan_payment": "parent",
        "bronze.changes": "parent",
    }
    exposures = {node.name for node in graph.nodes if node.role == "exposure"}
    assert exposures == {"loan_approval_features", "loan_approval_model"}
    assert [node.name for node in graph.nodes if node.failed] == ["gold.fct_loans"]


def test_layers_go_from_left_to_right_and_no_line_passes_through_a_box() -> None:
    graph = touched(manifest(), {HISTORY}, set(), set())
    boxes, lines = drawn(graph)
    assert len(lines) == len(graph.edges)
    for parent, name in graph.edges:
        assert boxes[parent][1] < boxes[name][0]
    places = [(left, middle) for left, _, middle in boxes.values()]
    assert len(set(places)) == len(places)
    for line in lines:
        for curve, straight in pairwise(line):
            if straight.startswith("H"):  # where it passes a layer
                x, y = map(float, curve.split()[-2:])
                assert (x, y) not in places


def test_names_can_not_break_out_of_the_picture() -> None:
    graph = Graph((Node('<b>"x"</b>', "modified"),))
    (box,) = drawn(graph)[0]
    assert box == '<b>"x"</b>'
    assert "n0[\"<b>'x'</b>\"]:::modified" in mermaid(graph)
