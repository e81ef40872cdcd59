//! The rules that hold in every case.

use serde_json::Value;

use super::fault::{Case, Corruption, Fault};
use super::scenario::{Ended, Kind, QUEUE, Scenario};

/// What every worker and every command may end with when a broker fails. 80 only when it was told to stop.
const UNREACHABLE: i32 = 69;
const NOT_DELIVERED: i32 = 74;
const REFUSED: i32 = 77;
const CONFIGURATION: i32 = 78;
const DEAD_LETTERED: i32 = 65;
const STUCK: i32 = 80;
const TERMINATED: i32 = 143;

/// How many connections a run may make. A worker reconnects at once after a connection that lasted, and then ever more slowly,
/// so more than this is a tight loop.
const CONNECTIONS: u64 = 16;
const CONNECTIONS_A_SECOND: u64 = 4;

/// Judges a run. The `bool` beside the case says whether the run had enough time to end by itself.
pub fn judge(scenario: &Scenario, case: Option<(&Case, bool)>, ended: &Ended) -> Result<(), String> {
    let Ended { run, books, hung, stopped, took } = ended;
    let fault = case.map(|(case, _)| case.fault);
    if let Some(breach) = books.breaches.first() {
        return Err(format!("broke the protocol: {breach}"));
    }
    if run.stderr.contains("panicked") {
        return Err("panicked".into());
    }
    let patiently = case.is_none_or(|(_, patiently)| patiently);
    // A drain whose broker lets it in, and then fails each time, goes on trying.
    let goes_on = match scenario.kind {
        Kind::Service => true,
        Kind::Drain => case.is_some_and(|(case, _)| case.always && !case.fault.keeps_waiting()),
        _ => false,
    };
    if *hung && (patiently || !scenario.works()) && !goes_on {
        return Err("did not end by itself".into());
    }
    let most = CONNECTIONS + CONNECTIONS_A_SECOND * took.as_secs();
    if books.opened > most {
        return Err(format!("made {} connections within {took:?}", books.opened));
    }
    let Some(code) = run.code else { return Err("was ended by a signal".into()) };
    let allowed = match code {
        0 | UNREACHABLE | NOT_DELIVERED => true,
        REFUSED | CONFIGURATION if fault.is_some_and(Fault::refuses) => true,
        // A frame whose length is wrong looks like one that is too long for the settings, which no other try makes shorter.
        CONFIGURATION if matches!(fault, Some(Fault::Corrupt(Corruption::Huge | Corruption::Longer))) => true,
        STUCK | TERMINATED => *stopped,
        DEAD_LETTERED if case.is_some_and(|(case, _)| calls_a_result_too_large(case)) => true,
        other => scenario.own.contains(&other),
    };
    if !allowed {
        return Err(format!("exit {code}, which this can't lead to"));
    }
    if is_undisturbed(case.map(|(case, _)| case)) && code != scenario.clean && !(*stopped && code == TERMINATED) {
        return Err(format!("exit {code}, and {} was due", scenario.clean));
    }
    let out = run.out();
    if scenario.kind != Kind::Purge {
        for body in scenario.messages {
            if books.copies(body.as_bytes()) == 0 && !out.contains(body) {
                return Err(format!("{body} is lost: no queue has it, and no result of it was recorded"));
            }
        }
    }
    if code == 0 {
        successful(scenario, fault, ended)?;
    }
    let dead = format!("{QUEUE}.dead");
    let puts_aside = books.queues.get(&dead).is_some_and(|queue| !queue.ready.is_empty());
    if code == DEAD_LETTERED && !puts_aside {
        return Err("exit 65, and there is no dead letter".into());
    }
    Ok(())
}

/// Whether nothing has to change: no fault, or one answer that comes late, within every bound.
pub fn is_undisturbed(case: Option<&Case>) -> bool {
    case.is_none_or(|case| case.fault == Fault::Late && !case.always)
}

/// Whether the broker refuses a result as too large. The message that has this result then becomes a dead letter.
fn calls_a_result_too_large(case: &Case) -> bool {
    case.fault == Fault::CloseChannel(406) && case.place.role == "results of" && case.place.frame == "basic.ack"
}

/// Whether an exit status of 0 tells the truth.
fn successful(scenario: &Scenario, fault: Option<Fault>, ended: &Ended) -> Result<(), String> {
    let Ended { run, books, .. } = ended;
    match scenario.kind {
        Kind::Once | Kind::Drain | Kind::Service => {
            let claimed = acked(&run.stderr).ok_or("exit 0 without a summary")?;
            let known = books.acked.len() as u64;
            // A retry and a dead letter end with an acknowledgement too. One that was lost together with its connection is sent
            // again when its message comes again, by who goes on after that.
            let came_again =
                scenario.kind != Kind::Once && run.stderr.contains("the broker is not available; trying again");
            if claimed > known && !came_again {
                return Err(format!("claims {claimed} acknowledged messages, and the broker knows of {known}"));
            }
            // After a fault that silences the broker, the worker may never have received a message whole. That message is still
            // unsettled, and the drain is not to blame.
            let out = fault.is_some_and(Fault::is_silence);
            if scenario.kind == Kind::Drain && !books.is_done(QUEUE) && !out {
                return Err("drained, and the queue is not empty".into());
            }
        }
        Kind::Publish => {
            for body in ["a1", "a2"] {
                if !books.holds(QUEUE, body.as_bytes()) {
                    return Err(format!("published {body}, and it is not in the queue"));
                }
            }
        }
        Kind::Get | Kind::Purge => {
            if !books.is_done(QUEUE) {
                return Err("the queue is not empty".into());
            }
        }
        Kind::Status => {
            if !run.out().contains("ready 1") {
                return Err(format!("says {:?}", run.out()));
            }
        }
        Kind::Declare => {
            if !books.queues.contains_key(QUEUE) {
                return Err("declared, and there is no queue".into());
            }
        }
    }
    Ok(())
}

/// What the worker's last words say of acknowledged messages.
fn acked(stderr: &str) -> Option<u64> {
    let lines = stderr.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter_map(|line| line["acked"].as_u64()).next()
}
