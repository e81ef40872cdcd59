"""The echo guest inside of CPython: what the benchmark calls an interpreter."""

import sys

from wit_world import exports


class Run(exports.Run):
    def run(self) -> None:
        message = sys.stdin.buffer.read()
        sys.stdout.buffer.write(message)
        sys.stdout.buffer.flush()
