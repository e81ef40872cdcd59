"""Queues in a SQLite file for Python, doing what wq-run does with its own: take a message, echo it, acknowledge it.

    queue_file_peers.py fill|work huey|litequeue|litequeue-unsynced FILE COUNT

`work` takes until the queue is empty, and prints how many it did. The libraries come with settings of their own for the disk: huey's
default and `litequeue-unsynced` lose what a power failure finds in the page cache. The other two wait for the disk, as wq-run does.
"""

import sys

import huey
import litequeue

OUT = open("/dev/null", "wb", buffering=0)


def huey_on(file):
    queue = huey.SqliteHuey(filename=file, fsync=True, results=False)

    @queue.task()
    def echo(body):
        OUT.write(body.encode())

    def work():
        done = 0
        # What a thread of its consumer does in turn.
        while (task := queue.dequeue()) is not None:
            queue.execute(task)
            done += 1
        return done

    return echo, queue.storage.conn, work


def litequeue_on(file):
    queue = litequeue.LiteQueue(file)

    def work():
        done = 0
        while (message := queue.pop()) is not None:
            OUT.write(message.data.encode())
            queue.done(message.message_id)
            done += 1
        return done

    return queue.put, queue.conn, work


def main(command, peer, file, count):
    put, connection, work = huey_on(file) if peer == "huey" else litequeue_on(file)
    if command == "work":
        if peer == "litequeue":
            connection.execute("PRAGMA synchronous = FULL")
        print(work())
        return
    connection.execute("PRAGMA synchronous = OFF")
    for number in range(int(count)):
        put(f"{number % 100000:05}")


main(*sys.argv[1:])
