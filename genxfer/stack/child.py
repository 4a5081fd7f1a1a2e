"""Become a program that ends with our parent: python -m genxfer.stack.child COMMAND...

The supervisor starts every part through here. Standard library only, and gone at once: the program takes its place.
"""

import os
import sys

from genxfer.launch.lifeline import PARENT_VARIABLE, die_with_parent

if __name__ == "__main__":
    die_with_parent()
    os.environ.pop(PARENT_VARIABLE, None)  # it speaks of this process alone
    try:
        os.execvp(sys.argv[1], sys.argv[1:])
    except OSError as error:
        sys.exit(f"{sys.argv[1]}: {error.strerror}")
