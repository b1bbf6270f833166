"""How fast XenFlow is, each figure beside a limit or a peer measured in the same run.

`scripts/bench` runs `python -m bench` in namespaces of its own.  Each measurement is one module
with one function that returns `results.Row`s; docs/performance.md tells what they mean.
"""
