"""What a pull request would change: `lake ci`.

`run.py` builds what it modifies on a branch and judges it, `report.py` says what came of it, in
Markdown and HTML, `graph.py` draws the part of the project that it touches. Nothing is published.
"""
