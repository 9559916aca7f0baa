"""`python -m bertjax` is the command line."""

from bertjax.cli import main

if __name__ == "__main__":
    main()
