//! `wq-run dlq`: finds messages that died, and sends them back or deletes them.

mod case;
mod list;
mod purge;
mod replay;
mod round;
mod show;

use self::round::{Round, Said};
use crate::cli;
use crate::config::{DeadLetters, Filters};
use crate::error::Error;

pub async fn run(args: cli::DeadLetters) -> Result<u8, Error> {
    let (cli::DeadLetters::List { of, .. }
    | cli::DeadLetters::Show { of, .. }
    | cli::DeadLetters::Replay { of, .. }
    | cli::DeadLetters::Purge { of, .. }) = &args;
    let letters = DeadLetters::resolve(of)?;
    run_on(&letters, args).await.map_err(|error| error.on(&letters.broker))
}

async fn run_on(letters: &DeadLetters, args: cli::DeadLetters) -> Result<u8, Error> {
    match args {
        cli::DeadLetters::List { filters, json, .. } => {
            let mut round = Round::begin(letters, Filters::new(filters));
            let listed = list::list(&mut round, json).await;
            round.end(listed.map(|()| Said::default())).await
        }
        cli::DeadLetters::Show { filters, json, case, .. } => {
            let mut round = Round::begin(letters, Filters::new(filters));
            let form = match (json, case) {
                (_, true) => show::Form::Case,
                (true, false) => show::Form::Json,
                (false, false) => show::Form::People,
            };
            let shown = show::show(&mut round, form).await;
            round.end(shown.map(|()| Said::default())).await
        }
        cli::DeadLetters::Replay { filters, to, doing, .. } => {
            replay::check(letters, to.as_deref())?;
            let mut round = Round::begin(letters, Filters::new(filters));
            let replayed = replay::replay(&mut round, to.as_deref(), &doing).await;
            round.end(replayed).await
        }
        cli::DeadLetters::Purge { filters, doing, .. } => {
            let filters = Filters::new(filters);
            if filters.is_all() && !doing.dry_run && !doing.json {
                return purge::all(letters).await;
            }
            let mut round = Round::begin(letters, filters);
            let purged = purge::purge(&mut round, &doing).await;
            round.end(purged).await
        }
    }
}
