//! Metrics as Prometheus' text format has them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::http;

/// What was read from `/metrics`.
#[derive(Clone, Debug)]
pub struct Samples {
    pub text: String,
    samples: Vec<Sample>,
}

#[derive(Clone, Debug)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Samples {
    pub fn scrape(address: SocketAddr) -> Samples {
        let answer = http::get(address, "/metrics");
        assert_eq!(
            (answer.status, &*answer.headers["content-type"]),
            (200, "text/plain; version=0.0.4; charset=utf-8")
        );
        Samples::read(answer.body)
    }

    pub fn read(text: String) -> Samples {
        let samples = text.lines().filter(|line| !line.starts_with('#')).map(sample).collect();
        Samples { text, samples }
    }

    pub fn all(&self) -> &[Sample] {
        &self.samples
    }

    /// The sum of all samples of this name that have these labels; `None` if there is none.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |sample: &&Sample| {
            sample.name == name
                && labels.iter().all(|(label, value)| sample.labels.get(*label).is_some_and(|is| same(is, value)))
        };
        let mut found = self.samples.iter().filter(has).map(|sample| sample.value).peekable();
        found.peek()?;
        Some(found.sum())
    }

    /// A metric's type and its help.
    pub fn described(&self, name: &str) -> Option<(&str, &str)> {
        let of = |what: &str| {
            let begin = format!("# {what} {name} ");
            self.text.lines().find_map(|line| line.strip_prefix(&begin))
        };
        Some((of("TYPE")?, of("HELP")?))
    }
}

/// Numbers have several forms: the bound of a bucket can be `4.194304e+06`.
fn same(one: &str, other: &str) -> bool {
    one == other || one.parse::<f64>().is_ok_and(|number| Ok(number) == other.parse())
}

/// `name{label="value",…} 1.5`, with no quotes or commas in values.
fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()).map(|label| {
        let (label, value) = label.split_once('=').unwrap_or_else(|| panic!("no label: {line}"));
        (label.to_owned(), value.trim_matches('"').to_owned())
    });
    let value = value.parse().unwrap_or_else(|error| panic!("{error}: {line}"));
    Sample { name: name.to_owned(), labels: labels.collect(), value }
}
