//! How KEDA, which starts pods by the length of a queue, counts the messages of a queue.

/// What KEDA has to know of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scaler {
    /// One for each place where messages wait.
    pub triggers: Vec<Trigger>,
    pub login: Login,
    /// Whether messages that workers have are counted too.
    pub counts_running: bool,
}

/// One of KEDA's triggers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trigger {
    pub kind: &'static str,
    /// Without the number of messages. Holds no secret.
    pub metadata: Vec<(&'static str, String)>,
    /// What the number of messages for one pod is called.
    pub length: &'static str,
}

/// How KEDA logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// By the URL that the workers have: the parameter that takes it.
    Url(&'static str),
    /// By several values: a parameter, and the key of its value in a Secret.
    Parts(Vec<(&'static str, &'static str)>),
    /// By the identity that a cloud gives KEDA's own pod, of this provider; or by the values, where a Secret is named.
    Identity(&'static str, Vec<(&'static str, &'static str)>),
}
