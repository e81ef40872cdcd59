//! `wq-run dlq show`.

use super::round::Round;
use crate::commands::describe;
use crate::commands::pick::Picked;
use crate::commands::process::note;
use crate::envelope;
use crate::error::Error;
use crate::streams::print;

pub async fn show(round: &mut Round<'_>, json: bool) -> Result<(), Error> {
    let mut shown = 0;
    loop {
        let picked = round.next().await?;
        if picked.is_empty() {
            break;
        }
        let now = round.pick.now();
        for Picked { seen, end } in &picked {
            let text = match json {
                true => format!("{}\n", envelope::line(&seen.message, &seen.origin)),
                // A blank line between two of them.
                false if shown > 0 => format!("\n{}", describe::message(seen, Some(end), now)),
                false => describe::message(seen, Some(end), now),
            };
            print(text.as_bytes()).map_err(|source| Error::Io { doing: "write to stdout".into(), source })?;
            shown += 1;
        }
        round.pick.leave(picked.into_iter().map(|picked| picked.seen).collect()).await?;
    }
    if shown == 0 && !json {
        note("no dead letters");
    }
    round.pick.say_what_is_left().await?;
    Ok(())
}
