"""`python -m mltrain COMMAND ARGUMENTS`."""

from mltrain.cli import main

if __name__ == "__main__":
    main()
