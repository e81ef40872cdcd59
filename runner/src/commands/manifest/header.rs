//! The comments above a manifest: what made it, how it is applied, and what has to be there.

use std::ffi::OsString;
use std::fmt::Write as _;

use crate::broker::scaler::Login;
use crate::cli::kubernetes::{EnvFrom, Source};
use crate::config::{Guest, Manifest, Workload};
use crate::visible::lines;

pub fn of(command: impl IntoIterator<Item = OsString>, config: &Manifest) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "# Printed by: {}", typed(command));
    let _ = writeln!(text, "# Apply it with: kubectl apply --server-side --filename FILE");
    for need in needs(config) {
        let _ = writeln!(text, "# Needs {need}");
    }
    text
}

/// The command line as a shell takes it, without the broker's address, which has a password in it.
fn typed(command: impl IntoIterator<Item = OsString>) -> String {
    let mut words = vec!["wq-run".to_owned()];
    let mut is_address = false;
    let mut is_ours = true;
    for word in command.into_iter().skip(1) {
        let word = word.to_string_lossy().into_owned();
        is_ours &= word != "--";
        match word.as_str() {
            _ if std::mem::take(&mut is_address) => {}
            "-u" | "--broker" if is_ours => is_address = true,
            _ if is_ours && (word.starts_with("-u") || word.starts_with("--broker=")) => {}
            _ => words.push(quoted(&word)),
        }
    }
    words.join(" ")
}

fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "-_./:=,@%+".contains(letter);
    // Nothing may end the comment, the separators of Unicode included.
    let shown = lines(word).replace('\n', "\\n").replace(['\u{2028}', '\u{2029}'], "?");
    if !word.is_empty() && word.chars().all(is_plain) { shown } else { format!("'{}'", shown.replace('\'', r"'\''")) }
}

/// The objects that are not printed.
fn needs(config: &Manifest) -> Vec<String> {
    let mut needs = vec![format!("the Secret {} with {}, the broker's URL", config.secret.name.0, config.secret.key)];
    if let Workload::ScaledJob(scaled, _) | Workload::ScaledDeployment(scaled) = &config.workload {
        let secret = scaled.secret.as_ref().unwrap_or(&config.secret.name);
        let parts = match &scaled.scaler.login {
            Login::Parts(parts) => parts.as_slice(),
            Login::Identity(_, parts) if scaled.secret.is_some() => parts,
            Login::Url(_) | Login::Identity(..) => &[],
        };
        let keys: Vec<&str> = parts.iter().map(|(_, key)| *key).collect();
        match (keys.as_slice(), &scaled.secret) {
            ([], None) => {}
            ([], Some(secret)) => needs.push(format!("the Secret {} with {}, for KEDA", secret.0, config.secret.key)),
            (keys, _) => needs.push(format!("the Secret {} with {}, for KEDA", secret.0, keys.join(", "))),
        }
        needs.push("KEDA; its operator has to be able to look the broker's host up from its own namespace".to_owned());
    }
    let from = |source: &Source| match source {
        Source::ConfigMap(name) => Some(format!("the ConfigMap {}", name.0)),
        Source::Secret(name) => Some(format!("the Secret {}", name.0)),
        Source::Claim(name) => Some(format!("the PersistentVolumeClaim {}", name.0)),
        Source::Image(_) => Some(
            "a cluster with image volumes: Kubernetes 1.35, or the feature gate ImageVolume from 1.31 on".to_owned(),
        ),
        Source::EmptyDir(_) => None,
    };
    if let Guest::Elsewhere { source, path } = &config.guest {
        needs.extend(from(source).map(|source| format!("{source}, with the guest {path}")));
    }
    needs.extend(config.mounts.iter().filter_map(|mount| from(&mount.source)));
    needs.extend(config.env_from.iter().map(|source| match source {
        EnvFrom::Secret(name) => format!("the Secret {}", name.0),
        EnvFrom::ConfigMap(name) => format!("the ConfigMap {}", name.0),
    }));
    needs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &[&str]) -> String {
        typed(line.iter().map(OsString::from))
    }

    #[test]
    fn the_brokers_address_is_not_repeated() {
        for address in [
            &["-u", "amqp://u:s3cret@h"][..],
            &["--broker", "amqp://u:s3cret@h"],
            &["-uamqp://u:s3cret@h"],
            &["--broker=amqp://u:s3cret@h"],
        ] {
            let line = [&["x/wq-run", "manifest", "job"][..], address, &["t.wasm", "--env", "A=b c"]].concat();
            assert_eq!(shown(&line), "wq-run manifest job t.wasm --env 'A=b c'");
        }
        // What the guest gets is its own.
        assert_eq!(shown(&["wq-run", "t.wasm", "--", "-u", "x"]), "wq-run t.wasm -- -u x");
    }

    #[test]
    fn no_argument_can_end_the_comment() {
        let line = shown(&["wq-run", "--env=A=1\nkind: Secret", "it's", ""]);
        assert!(!line.contains('\n'), "{line}");
        assert!(line.ends_with(r"'it'\''s' ''"), "{line}");
    }
}
