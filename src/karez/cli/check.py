"""`karez check`: whether a configuration is right, its graph, and what each dispatcher will do; connects to nothing."""

from __future__ import annotations

import json

from karez.cli import load
from karez.cli.options import CheckOptions, Drawing
from karez.pipeline import Node, Pipeline
from karez.registry import Registry


def run(options: CheckOptions) -> int:
    """Print what the options ask for; errors are raised, all at once."""
    if options.schema:
        print(json.dumps(Pipeline.schema(Registry(options.plugins)), indent=2))
        return 0
    pipeline = load.pipeline(options.config, options.plugins, options.strict)
    if options.format is Drawing.JSON:
        print(json.dumps(_as_json(pipeline), indent=2))
        return 0
    forecast = [
        line for node in pipeline.dispatchers.values() for line in (f"{node.name}:", *(f"  {part}" for part in pipeline.explain(node)))
    ]
    if options.format is Drawing.MERMAID:
        print("\n".join([pipeline.mermaid(), *(f"%% {line}" for line in forecast if options.explain)]))
        return 0
    parts = [] if options.explain else [pipeline.text()]
    print("\n\n".join([part for part in [*parts, "\n".join(forecast)] if part]))
    return 0


def _as_json(pipeline: Pipeline) -> dict[str, object]:
    categories = pipeline.categories()

    def describe(node: Node) -> dict[str, object]:
        described: dict[str, object] = {"kind": node.kind, "name": node.name, "type": node.plugin.type, "origin": node.plugin.origin}
        if node.entry is not None:
            described["place"] = str(node.entry.place)
        described["to"] = [target.name for target in node.targets if target is not None]
        if node.kind == "aggregator":
            described["category"] = node.config.category
        else:
            described["categories"] = categories.get(node, []) if None in node.targets else []
        if node.kind == "dispatcher":
            described["explain"] = pipeline.explain(node)
        return described

    roles = [describe(node) for kind in ("dispatcher", "connector", "converter", "aggregator") for node in pipeline.of(kind).values()]
    problems = [
        {
            "severity": problem.severity.value,
            "place": str(problem.place) if problem.place else None,
            "path": problem.path,
            "reason": problem.reason,
            "suggestion": problem.suggestion,
        }
        for problem in pipeline.problems
    ]
    return {"roles": roles, "problems": problems}
