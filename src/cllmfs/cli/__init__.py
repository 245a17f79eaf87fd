"""The ``cllmfs`` command."""

from __future__ import annotations


def main() -> None:
    """Run the command line and leave with its exit code; loaded when called."""
    from cllmfs.cli.app import main as run

    run()
