//! The limit on Redis: a consumer of a stream that takes entries, acknowledges and deletes them, and does nothing else.

use crate::Result;
use crate::queue::Consume;

/// As `XREADGROUP` answers: entries of each stream; each has an ID, and fields and values in turn.
type Read = Option<Vec<(String, Vec<(String, Vec<Vec<u8>>)>)>>;

/// The consumer group that wq-run has on each stream.
const GROUP: &str = "wq-run";

/// For the first entry, in milliseconds.
const PATIENCE: u32 = 10_000;

pub fn run(args: &Consume) -> Result<()> {
    let mut redis = redis::Client::open(args.broker.as_str())?.get_connection()?;
    let gather = usize::try_from(args.gather)?.max(1);
    let mut taken = 0;
    while taken < args.count {
        let at_once = (args.count - taken).min(args.prefetch.into());
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg(GROUP).arg("bare").arg("COUNT").arg(at_once).arg("BLOCK").arg(PATIENCE);
        let entries: Read = read.arg("STREAMS").arg(&args.queue).arg(">").query(&mut redis)?;
        let (_, entries) = entries.and_then(|mut streams| streams.pop()).ok_or("there are no messages left")?;
        for entries in entries.chunks(gather) {
            let ids: Vec<&str> = entries.iter().map(|(id, _)| id.as_str()).collect();
            let mut done = redis::pipe();
            done.cmd("XACK").arg(&args.queue).arg(GROUP).arg(&ids);
            done.cmd("XDEL").arg(&args.queue).arg(&ids);
            let (acked, _): (usize, usize) = done.query(&mut redis)?;
            if acked != ids.len() {
                return Err(format!("{acked} of {} messages were ours", ids.len()).into());
            }
            taken += acked as u64;
        }
    }
    Ok(())
}
