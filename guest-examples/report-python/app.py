"""The component: a message on stdin, a report on stdout, and an exit code."""

import sys

from wit_world import exports
from wit_world.imports import exit as wasi_exit

import report

# EX_DATAERR of sysexits.h: the message itself is bad, and wq-run makes it a dead letter.
BAD_MESSAGE = 65
# EX_TEMPFAIL: wq-run tries the message again.
TRY_AGAIN = 75


class Run(exports.Run):
    def run(self) -> None:
        # Nothing may leave this method as an exception: that would be a trap, whose frames are those of the interpreter.
        try:
            print(report.report(sys.stdin.buffer.read()))
        except report.BadMessage as error:
            leave(BAD_MESSAGE, error)
        except Exception as error:
            leave(TRY_AGAIN, repr(error))
        sys.stdout.flush()


def leave(code: int, why: object) -> None:
    print(f"report-python: {why}", file=sys.stderr, flush=True)
    # Not `sys.exit`, which can only say success or failure here.
    wasi_exit.exit_with_code(code)
