//! The address of SQS: a region, an account and a queue, in AWS's form or in a shorter one.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::terms::LEASE;
use crate::broker::scaler::{Login, Scaler, Trigger};

/// A hint for who puts keys into an address, as kombu has it.
const KEYS: &str = "it has a user name or a password: keys do not go into the address. They come from AWS_ACCESS_KEY_ID and \
                    AWS_SECRET_ACCESS_KEY, a profile, or a role";

/// The shortest lease that can be renewed in time beside a request that waits for messages; and the longest that SQS has.
const LEASES: RangeInclusive<u64> = 15..=43_200;

/// Where a queue is. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub region: String,
    /// That of the credentials if it is not named.
    pub account: Option<String>,
    pub queue: Option<String>,
    /// Where requests go; `None` if the region says it.
    host: Option<String>,
    /// The parameter `endpoint`.
    endpoint: Option<String>,
    /// The parameter `visibility_timeout`, in seconds.
    lease: Option<u64>,
}

impl std::str::FromStr for Url {
    type Err = String;

    /// The reason never holds a part of the text.
    fn from_str(text: &str) -> Result<Url, String> {
        let url = url::Url::parse(text).map_err(|error| format!("it is no URL: {error}"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(KEYS.into());
        }
        let host = url.host_str().unwrap_or_default().to_owned();
        let mut path = url.path_segments().map(|parts| parts.filter(|part| !part.is_empty()).map(str::to_owned));
        let mut next = || path.as_mut().and_then(Iterator::next);
        let (account, queue, rest) = (next(), next(), next());
        if rest.is_some() || url.fragment().is_some() {
            return Err("it has more parts than a region, an account and a queue".into());
        }
        let (endpoint, lease) = parameters(&url)?;
        let (region, at) = if url.scheme() == "https" {
            if queue.is_none() {
                return Err("a queue's URL is https://sqs.REGION.amazonaws.com/ACCOUNT/NAME".into());
            }
            (region_of(&host)?, Some(format!("https://{host}")))
        } else {
            (host, None)
        };
        if region.is_empty() || url.port().is_some() {
            return Err("it names no region: sqs://REGION/ACCOUNT/NAME".into());
        }
        Ok(Url { region, account, queue, host: at, endpoint, lease })
    }
}

/// The region in the name of one of AWS's hosts.
fn region_of(host: &str) -> Result<String, String> {
    let known = [".amazonaws.com", ".amazonaws.com.cn", ".api.aws"];
    let region = known.iter().find_map(|end| host.strip_suffix(end)).and_then(|host| host.strip_prefix("sqs."));
    match region {
        Some(region) if !region.is_empty() && !region.contains('.') => Ok(region.to_owned()),
        _ => Err("it is not a host of AWS; another server is written as sqs://REGION/ACCOUNT/NAME?endpoint=URL".into()),
    }
}

/// `endpoint` and `visibility_timeout`.
fn parameters(url: &url::Url) -> Result<(Option<String>, Option<u64>), String> {
    let (mut endpoint, mut lease) = (None, None);
    for (name, value) in url.query_pairs() {
        match &*name {
            "endpoint" if endpoint.is_none() => endpoint = Some(origin(&value)?),
            "visibility_timeout" if lease.is_none() => {
                let seconds = value.parse().ok().filter(|seconds| LEASES.contains(seconds));
                lease = Some(seconds.ok_or_else(|| {
                    format!("its visibility_timeout is a number of seconds from {} to {}", LEASES.start(), LEASES.end())
                })?);
            }
            _ => return Err("its parameters are `endpoint` and `visibility_timeout`, each once".into()),
        }
    }
    Ok((endpoint, lease))
}

/// Scheme, host and port of an endpoint.
fn origin(text: &str) -> Result<String, String> {
    let url = url::Url::parse(text).map_err(|error| format!("its endpoint is not a URL: {error}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(KEYS.into());
    }
    if !["http", "https"].contains(&url.scheme()) || url.path() != "/" || url.query().is_some() {
        return Err("its endpoint is http://HOST:PORT or https://HOST:PORT and nothing else".into());
    }
    Ok(url.origin().ascii_serialization())
}

impl Url {
    /// How long a message stays with a worker that does not answer any more.
    pub fn lease(&self) -> Duration {
        self.lease.map_or(LEASE, Duration::from_secs)
    }

    /// How KEDA counts the messages of a queue. For a Job each, those that are worked on must not count: they would be started
    /// again and again. For workers they have to: with the last ones still running, the workers would be stopped.
    pub(super) fn scaler_of(&self, queue: &str, of_jobs: bool) -> Scaler {
        let place = match &self.account {
            Some(account) => {
                let host = self.endpoint(|_| None).unwrap_or_default();
                format!("{host}/{account}/{queue}")
            }
            None => queue.to_owned(),
        };
        let mut metadata = vec![("queueURL", place), ("awsRegion", self.region.clone())];
        metadata.extend(self.endpoint.iter().map(|endpoint| ("awsEndpoint", endpoint.clone())));
        metadata.push(("scaleOnInFlight", (!of_jobs).to_string()));
        let keys = vec![("awsAccessKeyID", "AWS_ACCESS_KEY_ID"), ("awsSecretAccessKey", "AWS_SECRET_ACCESS_KEY")];
        Scaler {
            triggers: vec![Trigger { kind: "aws-sqs-queue", metadata, length: "queueLength" }],
            login: Login::Identity("aws", keys),
            counts_running: !of_jobs,
        }
    }

    /// Where requests go. What the address says comes first, then AWS's variables.
    ///
    /// # Errors
    /// When a variable holds no endpoint.
    pub fn endpoint(&self, variable: impl Fn(&str) -> Option<String>) -> Result<String, String> {
        if let Some(endpoint) = &self.endpoint {
            return Ok(endpoint.clone());
        }
        let ignored =
            variable("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS").is_some_and(|text| text.eq_ignore_ascii_case("true"));
        for name in ["AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL"] {
            if let Some(text) = variable(name).filter(|text| !text.is_empty() && !ignored) {
                return origin(&text).map_err(|reason| format!("{name}: {reason}"));
            }
        }
        let china = if self.region.starts_with("cn-") { ".cn" } else { "" };
        Ok(self.host.clone().unwrap_or_else(|| format!("https://sqs.{}.amazonaws.com{china}", self.region)))
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sqs://{}", self.region)?;
        for part in self.account.iter().chain(&self.queue) {
            write!(f, "/{part}")?;
        }
        let endpoint = self.endpoint.iter().map(|endpoint| format!("endpoint={endpoint}"));
        let lease = self.lease.iter().map(|lease| format!("visibility_timeout={lease}"));
        for (separator, parameter) in ["?", "&"].iter().zip(endpoint.chain(lease)) {
            write!(f, "{separator}{parameter}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<(String, String), String> {
        let url = text.parse::<Url>()?;
        Ok((url.to_string(), url.endpoint(|_| None)?))
    }

    #[test]
    fn every_way_to_write_an_address_leads_to_its_region_account_and_queue() {
        let aws = |region: &str| format!("https://sqs.{region}.amazonaws.com");
        let table = [
            ("sqs://eu-west-1/123456789012/q", "sqs://eu-west-1/123456789012/q", aws("eu-west-1")),
            ("sqs://eu-west-1", "sqs://eu-west-1", aws("eu-west-1")),
            ("sqs://eu-west-1/123456789012", "sqs://eu-west-1/123456789012", aws("eu-west-1")),
            ("https://sqs.us-east-2.amazonaws.com/1/q.fifo", "sqs://us-east-2/1/q.fifo", aws("us-east-2")),
            ("sqs://cn-north-1/1/q", "sqs://cn-north-1/1/q", "https://sqs.cn-north-1.amazonaws.com.cn".into()),
            ("https://sqs.eu-west-1.api.aws/1/q", "sqs://eu-west-1/1/q", "https://sqs.eu-west-1.api.aws".into()),
            (
                "sqs://eu-west-1/0/q?visibility_timeout=15&endpoint=http://localhost:4566",
                "sqs://eu-west-1/0/q?endpoint=http://localhost:4566&visibility_timeout=15",
                "http://localhost:4566".into(),
            ),
        ];
        for (text, shown, endpoint) in table {
            assert_eq!(parsed(text), Ok((shown.to_owned(), endpoint)), "{text}");
        }
    }

    #[test]
    fn a_scaler_counts_messages_that_are_worked_on_for_workers_alone() {
        let of = |text: &str, of_jobs| {
            let Scaler { mut triggers, counts_running, .. } = text.parse::<Url>().unwrap().scaler_of("q", of_jobs);
            (triggers.remove(0).metadata, counts_running)
        };
        let (metadata, counts_running) = of("sqs://eu-west-1/123", true);
        assert!(metadata.contains(&("scaleOnInFlight", "false".into())) && !counts_running, "{metadata:?}");
        assert!(metadata.contains(&("queueURL", "https://sqs.eu-west-1.amazonaws.com/123/q".into())), "{metadata:?}");
        let (metadata, counts_running) = of("sqs://eu-west-1?endpoint=http://localhost:4566", false);
        assert!(metadata.contains(&("scaleOnInFlight", "true".into())) && counts_running, "{metadata:?}");
        assert!(metadata.contains(&("awsEndpoint", "http://localhost:4566".into())), "{metadata:?}");
        assert!(metadata.contains(&("queueURL", "q".into())), "{metadata:?}");
    }

    #[test]
    fn what_is_no_address_is_refused_with_a_reason() {
        let table = [
            ("sqs://AKIA:s3cret@eu-west-1/1/q", "AWS_ACCESS_KEY_ID"),
            ("sqs://eu-west-1?endpoint=http://u:s3cret@h", "AWS_ACCESS_KEY_ID"),
            ("https://sqs.eu-west-1.example.com/1/q", "endpoint"),
            ("https://sqs.amazonaws.com/1/q", "not a host of AWS"),
            ("https://sqs.eu-west-1.amazonaws.com/1", "ACCOUNT/NAME"),
            ("sqs:///1/q", "no region"),
            ("sqs://h:1/1/q", "no region"),
            ("sqs://r/1/q/more", "more parts"),
            ("sqs://r/1/q?wait=3", "endpoint"),
            ("sqs://r/1/q?visibility_timeout=14", "from 15 to 43200"),
            ("sqs://r/1/q?visibility_timeout=60&visibility_timeout=60", "once"),
            ("sqs://r/1/q?endpoint=ftp://h", "http://HOST:PORT"),
        ];
        for (text, reason) in table {
            let refused = text.parse::<Url>().unwrap_err();
            assert!(refused.contains(reason) && !refused.contains("s3cret"), "{text}: {refused}");
        }
    }

    #[test]
    fn the_variables_of_aws_move_the_endpoint_unless_the_address_says_it() {
        let with = |text: &str, variables: &[(&str, &str)]| {
            let variables: Vec<(String, String)> =
                variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let variable =
                |name: &str| variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
            text.parse::<Url>().unwrap().endpoint(variable)
        };
        let (all, one) = (("AWS_ENDPOINT_URL", "http://all:1"), ("AWS_ENDPOINT_URL_SQS", "http://one:2/"));
        assert_eq!(with("sqs://r", &[all]).unwrap(), "http://all:1");
        assert_eq!(with("sqs://r", &[all, one]).unwrap(), "http://one:2");
        assert_eq!(with("sqs://r?endpoint=http://mine:3", &[all, one]).unwrap(), "http://mine:3");
        let ignored = ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true");
        assert_eq!(with("sqs://r", &[all, ignored]).unwrap(), "https://sqs.r.amazonaws.com");
        assert!(with("sqs://r", &[("AWS_ENDPOINT_URL", "nowhere")]).unwrap_err().contains("AWS_ENDPOINT_URL"));
    }
}
