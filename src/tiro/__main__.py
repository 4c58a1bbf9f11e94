"""`python -m tiro` is the command `tiro`."""

from tiro.cli import main

main()
