//! What `wq-run check` finds, as values: what is as it should be, what is not, and what follows from it.

/// What a finding is about. The names are those that `--json` prints.
macro_rules! topics {
    ($($(#[$about:meta])* $topic:ident $name:literal),* $(,)?) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Topic { $($(#[$about])* $topic),* }

        impl Topic {
            /// All of them, in the order in which they are looked at.
            pub const ALL: &[Topic] = &[$(Topic::$topic),*];

            pub fn name(self) -> &'static str {
                match self { $(Topic::$topic => $name),* }
            }
        }
    };
}

topics! {
    /// Flags and variables, by themselves.
    Settings "settings",
    /// Whether the guest can be read, checked and compiled.
    Guest "guest",
    Digest "digest",
    /// The guest's imports, compared with its grants.
    Imports "imports",
    /// The walls around the guest's process.
    Wall "wall",
    Cache "cache",
    /// The memory that the worker and its guests may use, compared with the memory that there is.
    Memory "memory",
    Scratch "scratch",
    /// The time that a shutdown takes, compared with the time that it gets.
    Shutdown "shutdown",
    Reach "reach",
    Tls "tls",
    Credentials "credentials",
    Clock "clock",
    /// Whether the queue is there, and of which type.
    Queue "queue",
    Rights "rights",
    /// How often the broker hands a message over, beside `--max-attempts`.
    DeliveryLimit "delivery-limit",
    /// How long the broker leaves a message with a worker, beside `--timeout`.
    Timeout "timeout",
    /// Where retries wait.
    Retries "retries",
    DeadLetters "dead-letters",
    /// What could delete messages that nobody has done.
    Durability "durability",
    Results "results",
}

/// One thing that was looked at.
#[derive(Debug)]
pub struct Finding<E> {
    pub topic: Topic,
    /// The part that it is about, if there are several: "the queue `results`".
    pub subject: Option<String>,
    pub verdict: Verdict<E>,
}

#[derive(Debug)]
pub enum Verdict<E> {
    /// It is as it should be.
    Good(String),
    /// Nothing has to be done: worth knowing, or not checked.
    Note(String),
    /// The worker starts, but something goes wrong later.
    Caution { found: String, consequence: String, remedy: String },
    /// The worker ends with this error. `consequence` is set if it ends later than at its start.
    Refusal { error: E, consequence: Option<String> },
}

/// All that was found, in order.
#[derive(Debug)]
pub struct Findings<E>(pub Vec<Finding<E>>);

// === impl Findings ===

impl<E> Default for Findings<E> {
    fn default() -> Findings<E> {
        Findings(Vec::new())
    }
}

impl<E> Findings<E> {
    pub fn add(&mut self, topic: Topic, verdict: Verdict<E>) {
        self.0.push(Finding { topic, subject: None, verdict });
    }

    pub fn good(&mut self, topic: Topic, found: impl Into<String>) {
        self.add(topic, Verdict::Good(found.into()));
    }

    pub fn note(&mut self, topic: Topic, found: impl Into<String>) {
        self.add(topic, Verdict::Note(found.into()));
    }

    pub fn caution(
        &mut self,
        topic: Topic,
        found: impl Into<String>,
        consequence: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let (found, consequence, remedy) = (found.into(), consequence.into(), remedy.into());
        self.add(topic, Verdict::Caution { found, consequence, remedy });
    }

    /// A worker ends with this before it takes a message.
    pub fn refusal(&mut self, topic: Topic, error: impl Into<E>) {
        self.add(topic, Verdict::Refusal { error: error.into(), consequence: None });
    }

    /// A worker starts, and ends with this later.
    pub fn later(&mut self, topic: Topic, error: impl Into<E>, consequence: impl Into<String>) {
        self.add(topic, Verdict::Refusal { error: error.into(), consequence: Some(consequence.into()) });
    }

    /// Results that can't be delivered to this place.
    pub fn undeliverable(&mut self, to: impl Into<String>, error: impl Into<E>, consequence: Option<String>) {
        let verdict = Verdict::Refusal { error: error.into(), consequence };
        self.0.push(Finding { topic: Topic::Results, subject: Some(to.into()), verdict });
    }

    pub fn append(&mut self, other: Findings<E>) {
        self.0.extend(other.0);
    }
}
