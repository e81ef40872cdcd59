//! What holds for all queues of SQS.

use std::time::Duration;

use crate::task::System;

/// In traces.
pub const SYSTEM: System = System { name: "aws_sqs", routing_key: None, delivery_tag: None };

/// How the name of a FIFO queue ends.
pub const FIFO: &str = ".fifo";

/// How long a message stays with a worker that does not answer any more, unless the address says it.
pub const LEASE: Duration = Duration::from_secs(60);

/// How many chances there are to renew a lease before it ends.
pub const RENEWALS: u32 = 3;

/// The longest that a request waits for messages: a worker that ends waits for it, since it may bring some.
pub const WAIT: Duration = Duration::from_secs(5);

/// How long SQS hides a message in all, counted from when it was handed over.
pub const LONGEST: Duration = Duration::from_secs(12 * 3600);
