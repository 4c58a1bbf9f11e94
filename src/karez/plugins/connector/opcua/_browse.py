"""Finds the variables that a server offers, by browsing from a node downwards."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from asyncua import Client, ua

_HIERARCHICAL = ua.NodeId(ua.ObjectIds.HierarchicalReferences)
_PROPERTY = ua.NodeId(ua.ObjectIds.HasProperty)
_CLASSES = int(ua.NodeClass.Object | ua.NodeClass.Variable)
_ASKED = int(ua.BrowseResultMask.ReferenceTypeId | ua.BrowseResultMask.NodeClass | ua.BrowseResultMask.BrowseName)


async def browse(
    client: Client, root: ua.NodeId, depth: int, namespaces: Collection[int] | None, per_request: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """The variables below a node, as entities, and what could not be browsed, with the reason.

    Objects of namespace 0, in which a server describes itself, are not entered unless that is one of `namespaces`.
    """
    found: list[dict[str, Any]] = []
    problems: list[str] = []
    seen = {root}
    level = [(root, "")]
    for _ in range(depth):
        below: list[tuple[ua.NodeId, str]] = []
        for start in range(0, len(level), per_request):
            nodes = level[start : start + per_request]
            for (node, path), result in zip(nodes, await _children(client, [node for node, _ in nodes]), strict=True):
                if not result.StatusCode.is_good():
                    problems.append(f"{path or node.to_string()}: {result.StatusCode.name}")
                for reference in result.References:
                    child = _local(reference)
                    if child is None or child in seen or (child.NamespaceIndex == 0 and 0 not in (namespaces or ())):
                        continue
                    seen.add(child)
                    name = f"{path}/{reference.BrowseName.Name}" if path else str(reference.BrowseName.Name)
                    below.append((child, name))
                    if reference.NodeClass == ua.NodeClass.Variable and (not namespaces or child.NamespaceIndex in namespaces):
                        found.append({"NodeId": child.to_string(), "Name": name})
        level = below
        if not level:
            break
    problems += [f"{path}: deeper than {depth} levels" for _, path in level]
    return found, problems


def _local(reference: ua.ReferenceDescription) -> ua.NodeId | None:
    """The node that a reference leads to; none if it is a property (it describes its node) or on another server."""
    target = reference.NodeId
    if reference.ReferenceTypeId == _PROPERTY or getattr(target, "ServerIndex", None) or getattr(target, "NamespaceUri", None):
        return None
    return ua.NodeId(target.Identifier, target.NamespaceIndex)


async def _children(client: Client, nodes: list[ua.NodeId]) -> list[ua.BrowseResult]:
    """What the nodes refer to, with all continuations."""
    asked = [ua.BrowseDescription(NodeId=node, ReferenceTypeId=_HIERARCHICAL, NodeClassMask=_CLASSES, ResultMask=_ASKED) for node in nodes]
    results: list[ua.BrowseResult] = await client.uaclient.browse(ua.BrowseParameters(NodesToBrowse=asked))
    for index, result in enumerate(results):
        if result.StatusCode.value == ua.StatusCodes.BadNoContinuationPoints and len(nodes) > 1:
            # a server keeps few continuation points; alone, a node gets one
            results[index] = (await _children(client, [nodes[index]]))[0]
            continue
        point = result.ContinuationPoint
        while point:
            request = ua.BrowseNextParameters(ReleaseContinuationPoints=False, ContinuationPoints=[point])
            more = (await client.uaclient.browse_next(request))[0]
            result.References += more.References
            point = more.ContinuationPoint
    return results
