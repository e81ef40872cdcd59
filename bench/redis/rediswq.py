"""A worker as on the Kubernetes page "Fine Parallel Processing Using a Work Queue", by the scheme of its rediswq.py.

An item moves from the list to a second one, `processing`, and a key with a time to live says who has it. Nothing ever looks
at that key. Written anew; only the scheme is theirs. Arguments: port, queue, seconds that each task takes. WORKER in the
environment says when it ends: with `--forever` never, with `--drain` when the queue is empty, else two seconds later.
"""

import hashlib
import os
import sys
import time
import uuid

import redis

port, queue, seconds = sys.argv[1:]
server = redis.Redis(port=int(port))
session = str(uuid.uuid4())
processing = queue + ":processing"
worker = os.environ.get("WORKER", "")
while True:
    item = server.rpoplpush(queue, processing) if worker == "--drain" else server.brpoplpush(queue, processing, timeout=2)
    if item is None:
        if worker == "--forever":
            continue
        break
    lease = f"{queue}:leased_by_session:{hashlib.sha224(item).hexdigest()}"
    server.setex(lease, 10, session)
    if float(seconds):
        time.sleep(float(seconds))
    os.write(1, item + b"\n")
    server.lrem(processing, 0, item)
    server.delete(lease)
