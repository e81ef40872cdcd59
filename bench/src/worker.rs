//! The native worker that `amqp-consume` starts for each message: what `cat` does, as people would write it.

use std::io;

fn main() -> io::Result<()> {
    io::copy(&mut io::stdin().lock(), &mut io::stdout().lock()).map(drop)
}
