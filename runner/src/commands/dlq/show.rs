//! `wq-run dlq show`.

use super::case;
use super::round::Round;
use crate::commands::describe;
use crate::commands::pick::Picked;
use crate::commands::process::note;
use crate::envelope;
use crate::error::Error;
use crate::streams::print;

/// How dead letters are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    People,
    Json,
    Case,
}

pub async fn show(round: &mut Round<'_>, form: Form) -> Result<(), Error> {
    let mut shown = 0;
    loop {
        let picked = round.next().await?;
        if picked.is_empty() {
            break;
        }
        let now = round.pick.now();
        for Picked { seen, end } in &picked {
            let text = match form {
                Form::Json => format!("{}\n", envelope::line(&seen.message, &seen.origin)),
                Form::Case => format!("{}\n", case::line(seen, end)),
                // A blank line between two of them.
                Form::People if shown > 0 => format!("\n{}", describe::message(seen, Some(end), now)),
                Form::People => describe::message(seen, Some(end), now),
            };
            print(text.as_bytes()).map_err(|source| Error::Io { doing: "write to stdout".into(), source })?;
            shown += 1;
        }
        round.pick.leave(picked.into_iter().map(|picked| picked.seen).collect()).await?;
    }
    // An id that was asked for is named by what is left.
    if shown == 0 && form == Form::People && round.missing.is_empty() {
        note(&format!("no dead letters in {}", round.letters.dead_letter_queue));
    }
    round.pick.say_what_is_left().await?;
    Ok(())
}
