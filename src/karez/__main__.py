"""`python -m karez` is the command `karez`."""

from karez.cli import main

if __name__ == "__main__":
    main()
