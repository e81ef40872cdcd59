//! The environment variables of one run.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Names and values, in their order. All values are in one text: a run gets a dozen of them, which are made by one thread and dropped
/// by another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Env {
    /// With the end of its value.
    names: Vec<(Cow<'static, str>, usize)>,
    values: String,
}

impl Env {
    /// With room for so many variables, and for as many bytes in their values together.
    pub fn with_capacity(variables: usize, bytes: usize) -> Env {
        Env { names: Vec::with_capacity(variables), values: String::with_capacity(bytes) }
    }

    /// Adds a variable. One whose value holds a zero byte is left out: a variable ends there, and the guest would see another
    /// value than was meant.
    pub fn push(&mut self, name: impl Into<Cow<'static, str>>, value: &str) {
        if !value.contains('\0') {
            self.values.push_str(value);
            self.names.push((name.into(), self.values.len()));
        }
    }

    pub fn push_number(&mut self, name: impl Into<Cow<'static, str>>, value: u64) {
        // Into a string it can't fail.
        let _ = write!(self.values, "{value}");
        self.names.push((name.into(), self.values.len()));
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut begin = 0;
        self.names.iter().map(move |(name, end)| {
            let value = &self.values[begin..*end];
            begin = *end;
            (&**name, value)
        })
    }
}

impl Serialize for Env {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Env {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Env, D::Error> {
        let pairs = Vec::<(String, String)>::deserialize(deserializer)?;
        let mut env = Env::default();
        pairs.into_iter().for_each(|(name, value)| env.push(name, &value));
        Ok(env)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_come_back_as_they_were_also_from_another_process() {
        let mut env = Env::with_capacity(1, 1);
        env.push("A", "");
        env.push("B".to_owned(), "grüße");
        env.push("C", "cut\0here");
        env.push_number("D", 18_446_744_073_709_551_615);
        let pairs: Vec<_> = env.iter().collect();
        assert_eq!(pairs, [("A", ""), ("B", "grüße"), ("D", "18446744073709551615")]);
        let sent = serde_json::to_string(&env).unwrap();
        assert_eq!(serde_json::from_str::<Env>(&sent).unwrap(), env);
    }
}
