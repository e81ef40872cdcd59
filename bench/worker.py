"""The worker of the Kubernetes page's kind: reads its message, writes its result."""

import sys

sys.stdout.buffer.write(sys.stdin.buffer.read())
