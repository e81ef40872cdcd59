//! What a server tells of itself: its version, whether it keeps what it is given, and what it does when it is full.

use std::collections::HashMap;

use redis::RedisError;

use crate::broker::check::Findings;
use crate::broker::error::Error;
use crate::broker::redis::connection::Connection;
use crate::broker::redis::value::text;
use crate::finding::Topic;

/// The oldest version that has all that is asked of it.
const OLDEST: (u32, u32) = (6, 2);

pub struct Info(HashMap<String, String>);

impl Info {
    /// # Errors
    /// When the user has no right to ask.
    pub async fn ask(connection: &Connection) -> Result<Info, RedisError> {
        let answer = connection.ask(redis::cmd("INFO")).await?;
        Ok(Info::read(&text(answer).unwrap_or_default()))
    }

    fn read(text: &str) -> Info {
        let lines = text.lines().filter_map(|line| line.trim().split_once(':'));
        Info(lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub fn name(&self) -> String {
        match self.get("valkey_version") {
            "" => format!("Redis {}", self.get("redis_version")),
            version => format!("Valkey {version}"),
        }
    }

    pub fn look(&self, findings: &mut Findings) {
        let settings = |source: String| Error::Settings { what: "this Redis".into(), source: source.into() };
        let mut numbers = self.get("redis_version").split('.').map_while(|part| part.parse().ok());
        if let (Some(major), Some(minor)) = (numbers.next(), numbers.next())
            && (major, minor) < OLDEST
        {
            findings.refusal(Topic::Reach, settings(format!("it is {}", self.name())));
        }
        if self.get("cluster_enabled") == "1" {
            findings.refusal(Topic::Reach, settings("it is a node of a cluster, which has a part of the keys".into()));
        }
        if self.get("role") == "slave" {
            let source = "it is a replica, which takes no changes".to_owned();
            findings.refusal(Topic::Reach, Error::Lost { source: Some(source.into()) });
        }
        self.look_at_durability(findings);
    }

    fn look_at_durability(&self, findings: &mut Findings) {
        let caution = |findings: &mut Findings, found: &str, consequence: &str, remedy: &str| {
            findings.caution(Topic::Durability, found, consequence, remedy);
        };
        match (self.get("aof_enabled"), self.get("aof_last_write_status")) {
            ("1", "ok" | "") => findings.good(Topic::Durability, "the server has an append-only file"),
            ("1", _) => caution(
                findings,
                "the server cannot write its append-only file",
                "it takes no messages, retries and dead letters until it can",
                "look at the server's log and disk",
            ),
            ("0", _) => caution(
                findings,
                "the server has no append-only file (appendonly no)",
                "a restart goes back to the last snapshot: messages that were confirmed since then are lost, and what was done \
                 is run again",
                "`CONFIG SET appendonly yes` and appendfsync always; docs/redis.md says what that is worth",
            ),
            _ => findings.note(Topic::Durability, "the server does not tell whether it has an append-only file"),
        }
        let policy = self.get("maxmemory_policy");
        // The others delete only keys with a time to live.
        if policy.starts_with("allkeys") {
            caution(
                findings,
                &format!("the server's maxmemory-policy is {policy}"),
                "when its memory is full it DELETES whole queues",
                "`CONFIG SET maxmemory-policy noeviction`",
            );
        } else if !policy.is_empty() {
            findings
                .good(Topic::Durability, format!("the server's maxmemory-policy is {policy}, which deletes no queue"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Verdict;

    #[test]
    fn a_server_is_judged_by_what_it_tells() {
        let verdicts = |text: &str| {
            let mut findings = Findings::default();
            Info::read(text).look(&mut findings);
            let letter = |verdict: &Verdict<Error>| match verdict {
                Verdict::Good(_) => 'g',
                Verdict::Note(_) => 'n',
                Verdict::Caution { .. } => 'c',
                Verdict::Refusal { .. } => 'r',
            };
            findings.0.iter().map(|finding| letter(&finding.verdict)).collect::<String>()
        };
        let well =
            "# Server\r\nredis_version:7.0.15\r\nrole:master\r\naof_enabled:1\r\nmaxmemory_policy:noeviction\r\n";
        assert_eq!(verdicts(well), "gg");
        assert_eq!(verdicts(&well.replace("7.0.15", "6.0.16")), "rgg");
        assert_eq!(verdicts(&well.replace("master", "slave")), "rgg");
        assert_eq!(verdicts(&well.replace("enabled:1", "enabled:0")), "cg");
        assert_eq!(verdicts(&well.replace("noeviction", "allkeys-lru")), "gc");
        assert_eq!(verdicts(&format!("{well}cluster_enabled:1\r\n")), "rgg");
        assert_eq!(verdicts(""), "n");
    }
}
