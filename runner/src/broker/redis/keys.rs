//! The names of the keys that make up a queue.

/// All keys of one queue lie in one slot of a cluster, since a script may use no others.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The stream.
    pub queue: String,
    /// A sorted set of those that wait, by the time at which they are due.
    pub delayed: String,
    /// A stream of them.
    pub bodies: String,
    /// A list that feeds the queue.
    pub inbox: Option<String>,
}

impl Keys {
    pub fn new(queue: &str, inbox: Option<&str>) -> Keys {
        // What stands in the first braces of a name decides about the slot.
        let tagged =
            queue.split_once('{').and_then(|(_, rest)| rest.split_once('}')).is_some_and(|(tag, _)| !tag.is_empty());
        let base = if tagged { queue.to_owned() } else { format!("{{{queue}}}") };
        Keys {
            queue: queue.to_owned(),
            delayed: format!("{base}:delayed"),
            bodies: format!("{base}:delayed:body"),
            inbox: inbox.map(str::to_owned),
        }
    }

    /// The stream, what waits, and the inbox if there is one.
    pub fn all(&self) -> Vec<&str> {
        [&*self.queue, &self.delayed, &self.bodies].into_iter().chain(self.inbox.as_deref()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_tag_keeps_it() {
        assert_eq!(Keys::new("job1", None).delayed, "{job1}:delayed");
        assert_eq!(Keys::new("{jobs}.1", None).delayed, "{jobs}.1:delayed");
        assert_eq!(Keys::new("a{}b", None).bodies, "{a{}b}:delayed:body");
    }
}
