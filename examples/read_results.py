#!/usr/bin/env python3
"""Keeps the results of a queue in a SQLite file, each of them once.

    read_results.py URL QUEUE FILE [SECONDS]

wq-run delivers at least once: a result can come again, with the same message_id as before. Here the id and the result
are written in one transaction, and only then is the message acknowledged. So whatever dies in between, a result is
neither lost nor there twice. Ends when nothing has come for SECONDS (default: 1).
"""

import sqlite3
import sys

import pika


def main(url, queue, path, seconds="1"):
    results = sqlite3.connect(path)
    results.execute("CREATE TABLE IF NOT EXISTS result (id TEXT PRIMARY KEY, correlation_id TEXT, body BLOB NOT NULL)")
    new = known = 0
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.basic_qos(prefetch_count=1)
    for method, properties, body in channel.consume(queue, inactivity_timeout=float(seconds)):
        if method is None:
            break
        with results:
            row = (properties.message_id, properties.correlation_id, body)
            inserted = results.execute("INSERT OR IGNORE INTO result VALUES (?, ?, ?)", row).rowcount
        channel.basic_ack(method.delivery_tag)
        new += inserted
        known += 1 - inserted
    connection.close()
    print(f"{new} new, {known} known")


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    main(*sys.argv[1:])
