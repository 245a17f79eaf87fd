"""``python -m cllmfs``."""

from cllmfs.cli import main

if __name__ == "__main__":
    main()
