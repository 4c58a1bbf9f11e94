"""`tiro init`: a project that runs as it is written."""

from __future__ import annotations

from pathlib import Path

from tiro import project


def run(folder: str) -> None:
    """Write the project, and say what to do next."""
    for path in project.create(Path(folder)):
        print(f"wrote {path}")
    print("next:")
    print(f"  cd {folder}")
    print("  tiro check scenario/scenario.yaml scenario/use-srv1.yaml scenario/use-srv2.yaml")
    print("  tiro mock serve scenario/scenario.yaml scenario/use-srv1.yaml scenario/use-srv2.yaml")
    print("  karez deploy -c config/karez.yaml -p karez/")
