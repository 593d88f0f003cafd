"""`python -m jaxbrats COMMAND`, installed as `jaxbrats COMMAND`."""

import sys

from jaxbrats import commands


def main() -> None:
    """Runs the command that the command line names and exits with its code."""
    sys.exit(commands.run(sys.argv[1:]))


if __name__ == "__main__":
    main()
