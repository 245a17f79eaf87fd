"""The ``cllmfs`` command."""

from __future__ import annotations


def main() -> None:
    """Run the command line and exit with its exit code; its modules are imported when this is called."""
    from cllmfs.cli.app import main as run

    run()
