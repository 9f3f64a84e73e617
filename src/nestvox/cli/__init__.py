"""The command line: one file a command group, each a thin skin on a function."""

from __future__ import annotations

import signal
import sys

# Of the command alone, before anything else is imported: until `main` understands signals, Ctrl-C ends it in silence.
# What is ignored, as in jobs in the background, stays ignored.
_COMMAND = sys.argv[:1] and sys.argv[0].replace("\\", "/").rpartition("/")[2] in ("nestvox", "nestvox.exe")
if _COMMAND and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
