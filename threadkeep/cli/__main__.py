"""`python -m threadkeep.cli`."""

from threadkeep.cli import main

if __name__ == "__main__":
    main()
