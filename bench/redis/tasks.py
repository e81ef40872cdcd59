"""A Celery worker whose task echoes. The environment has the port, and how long each task takes."""

import os
import time

from celery import Celery

app = Celery(broker=f"redis://127.0.0.1:{os.environ['PORT']}/0")
app.conf.task_ignore_result = True
app.conf.task_acks_late = os.environ.get("ACKS") == "late"
app.conf.task_default_queue = "celery-tasks"
app.conf.worker_hijack_root_logger = False
# How often it connects again after a start under load is no part of this.
app.conf.broker_connection_retry_on_startup = True

SECONDS = float(os.environ.get("SECONDS", "0"))
OUT = os.open(os.environ.get("OUT", "/dev/null"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


@app.task(name="echo")
def echo(text):
    if SECONDS:
        time.sleep(SECONDS)
    os.write(OUT, text.encode() + b"\n")
