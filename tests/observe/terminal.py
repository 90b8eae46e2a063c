"""`aether top` in a terminal of its own: it shows, opens a world, says that its node hangs, and ends at once when asked to.

    terminal.py PROGRAM FILE NODE

NODE is the process of the node that runs with the cluster file FILE; it is stopped for some seconds. The screen goes to standard output.
"""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time

PROGRAM, FILE, NODE = sys.argv[1], sys.argv[2], int(sys.argv[3])


class Screen:
    """The program, and all that it has drawn."""

    def __init__(self, variables):
        self.drawn = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update({"TERM": "xterm-256color", **variables})
            os.execv(PROGRAM, [PROGRAM, "top", "--cluster", FILE])
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 150, 0, 0))

    def read(self):
        if select.select([self.fd], [], [], 0.1)[0]:
            try:
                self.drawn += os.read(self.fd, 65_536)
            except OSError:
                pass

    def text(self):
        """Words; where the cursor jumped, a space."""
        return re.sub(r"\s+", " ", re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b" ", self.drawn).decode("utf-8", "replace"))

    def until(self, words):
        deadline = time.monotonic() + 60
        while words not in self.text():
            assert time.monotonic() < deadline, f"{words!r} is not in {self.text()}"
            self.read()

    def press(self, keys):
        os.write(self.fd, keys)

    def end(self):
        """`q`, and how long it took."""
        begun = time.monotonic()
        self.press(b"q")
        while os.waitpid(self.pid, os.WNOHANG) == (0, 0):
            assert time.monotonic() < begun + 30, "it does not end"
            self.read()
        return time.monotonic() - begun


def colours(drawn):
    return len(re.findall(rb"\x1b\[(?:\d+;)*3[0-9]", drawn))


screen = Screen({})
screen.until("yard")
screen.press(b"\r")
screen.until("crasher")
os.kill(NODE, signal.SIGSTOP)
try:
    screen.until("does not answer")
    took = screen.end()
    assert took < 5, f"it ended {took} s after it was asked to"
finally:
    os.kill(NODE, signal.SIGCONT)
assert colours(screen.drawn) > 0, "nothing of what is parked is red"
plain = Screen({"NO_COLOR": "1"})
plain.until("yard")
plain.end()
assert colours(plain.drawn) == 0, plain.drawn
print(screen.text())
