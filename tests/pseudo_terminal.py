"""A terminal that a test can close."""

import fcntl
import termios


def take_terminal() -> None:
    """Make standard input the terminal of this session: for the child, before it becomes the command."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
