#!/usr/bin/env python3
"""Sends stdin to a queue as a request, and prints the answer of a worker with --result reply.

    ask.py URL QUEUE [--direct] [--timeout SECONDS]

The answer comes over a queue of our own, which goes away with us, or with --direct as a direct reply, without any queue.
It is ours if it has our correlation id.
"""

import argparse
import sys
import uuid

import pika

# Not a queue: RabbitMQ hands what is sent to it straight to this connection.
DIRECT = "amq.rabbitmq.reply-to"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("queue")
    parser.add_argument("--direct", action="store_true")
    parser.add_argument("--timeout", type=float, default=60)
    args = parser.parse_args()

    connection = pika.BlockingConnection(pika.URLParameters(args.url))
    channel = connection.channel()
    channel.confirm_delivery()
    answers = DIRECT if args.direct else channel.queue_declare("", exclusive=True).method.queue
    request = str(uuid.uuid4())
    answer = []

    def on_answer(_channel, _method, properties, body):
        if properties.correlation_id == request:
            answer.append(body)

    # Before the request: a direct reply needs its consumer first.
    channel.basic_consume(answers, on_answer, auto_ack=True)
    properties = pika.BasicProperties(reply_to=answers, correlation_id=request, message_id=request, delivery_mode=2)
    channel.basic_publish("", args.queue, sys.stdin.buffer.read(), properties, mandatory=True)
    connection.call_later(args.timeout, lambda: sys.exit(f"no answer within {args.timeout} s"))
    while not answer:
        connection.process_data_events(time_limit=None)
    sys.stdout.buffer.write(answer[0])
    connection.close()


if __name__ == "__main__":
    main()
