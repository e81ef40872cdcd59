//! How the things of a cluster are typed: names, sources of volumes, amounts of resources.

use std::str::FromStr;

/// The name of an object. It is a label too, and the names of pods are made from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(pub String);

/// What a pod's volume is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    ConfigMap(Name),
    Secret(Name),
    Claim(Name),
    Image(String),
    /// With its size, if it has one.
    EmptyDir(Option<Quantity>),
}

/// `PATH=SOURCE`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub path: String,
    pub source: Source,
}

/// A key of a Secret: `NAME/KEY`, or `NAME` for the key `BROKER_URL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub name: Name,
    pub key: String,
}

/// Where a pod gets variables from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvFrom {
    Secret(Name),
    ConfigMap(Name),
}

/// A number with the unit of a resource, as Kubernetes writes it: `500m`, `256Mi`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantity(pub String);

/// `NAME=QUANTITY`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Amount {
    pub resource: String,
    pub quantity: Quantity,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completions {
    Auto,
    Number(u32),
}

/// A label has 63 characters, and the names of pods have up to 17 more than that of their Deployment.
pub const LONGEST_NAME: usize = 46;

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Name, String> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let ends_plain = text.bytes().next().is_some_and(is_plain) && text.bytes().last().is_some_and(is_plain);
        if !ends_plain || !text.bytes().all(|byte| is_plain(byte) || byte == b'-') {
            return Err("a name has lower-case letters, digits and hyphens, and no hyphen at either end".into());
        }
        if text.len() > LONGEST_NAME {
            return Err(format!("a name has at most {LONGEST_NAME} characters"));
        }
        Ok(Name(text.to_owned()))
    }
}

impl Name {
    /// A name that resembles a text, if the text has anything that a name may have.
    pub fn resembling(text: &str) -> Option<Name> {
        let lower = text.to_ascii_lowercase();
        let words = lower.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let mut name = words.collect::<Vec<_>>().join("-");
        name.truncate(LONGEST_NAME);
        name.trim_end_matches('-').parse().ok()
    }
}

/// The names of ConfigMaps, Secrets and claims that are there already: they may be longer, and have dots.
fn existing(text: &str) -> Result<Name, String> {
    let parts_are_names = text.split('.').all(|part| {
        !part.is_empty() && part.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit() || byte.is_ascii_lowercase())
    });
    match parts_are_names && text.len() <= 253 {
        true => Ok(Name(text.to_owned())),
        false => Err(format!("`{text}` is no name of an object")),
    }
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Source, String> {
        match text.split_once('/') {
            Some(("configmap", name)) => existing(name).map(Source::ConfigMap),
            Some(("secret", name)) => existing(name).map(Source::Secret),
            Some(("pvc", name)) => existing(name).map(Source::Claim),
            Some(("image", image)) if !image.is_empty() => Ok(Source::Image(image.to_owned())),
            Some(("emptydir", size)) => size.parse().map(|size| Source::EmptyDir(Some(size))),
            None if text == "emptydir" => Ok(Source::EmptyDir(None)),
            _ => Err("a volume is configmap/NAME, secret/NAME, pvc/NAME, image/IMAGE or emptydir[/SIZE]".into()),
        }
    }
}

impl FromStr for Mount {
    type Err = String;

    fn from_str(text: &str) -> Result<Mount, String> {
        let (path, source) = text.split_once('=').ok_or("a volume is mounted as PATH=SOURCE")?;
        let path = path.trim_end_matches('/');
        if !path.starts_with('/') || path.contains(':') || path.split('/').any(|part| part == "..") {
            return Err("the path of a volume begins with a slash, and has no colon and no `..`".into());
        }
        Ok(Mount { path: path.to_owned(), source: source.parse()? })
    }
}

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Key, String> {
        let (name, key) = text.split_once('/').unwrap_or((text, "BROKER_URL"));
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if key.is_empty() || !key.bytes().all(is_plain) {
            return Err("a key of a Secret has letters, digits, hyphens, underscores and dots".into());
        }
        Ok(Key { name: existing(name)?, key: key.to_owned() })
    }
}

impl FromStr for EnvFrom {
    type Err = String;

    fn from_str(text: &str) -> Result<EnvFrom, String> {
        match text.split_once('/') {
            Some(("secret", name)) => existing(name).map(EnvFrom::Secret),
            Some(("configmap", name)) => existing(name).map(EnvFrom::ConfigMap),
            _ => Err("variables come from secret/NAME or configmap/NAME".into()),
        }
    }
}

impl FromStr for Quantity {
    type Err = String;

    fn from_str(text: &str) -> Result<Quantity, String> {
        const UNITS: [&str; 14] = ["", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        let number = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let unit = &text[number.len()..];
        let is_number =
            number.parse::<f64>().is_ok() && number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        match is_number && UNITS.contains(&unit) {
            true => Ok(Quantity(text.to_owned())),
            false => Err(format!("`{text}` is no amount: write 500m, 2, 256Mi or 1Gi")),
        }
    }
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Amount, String> {
        let (resource, quantity) = text.split_once('=').ok_or("resources are written cpu=500m,memory=256Mi")?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
        if resource.is_empty() || !resource.bytes().all(is_plain) {
            return Err(format!("`{resource}` is no name of a resource"));
        }
        Ok(Amount { resource: resource.to_owned(), quantity: quantity.parse()? })
    }
}

impl FromStr for Completions {
    type Err = String;

    fn from_str(text: &str) -> Result<Completions, String> {
        // Kubernetes counts them in 32 bits with a sign.
        let number = text.parse().ok().filter(|number| (1..=i32::MAX as u32).contains(number));
        match (text, number) {
            ("auto", _) => Ok(Completions::Auto),
            (_, Some(number)) => Ok(Completions::Number(number)),
            _ => Err("expected `auto` or a whole number from 1".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_volume_is_typed_by_its_kind_and_its_name() {
        let mount = |text: &str| text.parse::<Mount>();
        let claim = Mount { path: "/data".into(), source: Source::Claim(Name("big.volume".into())) };
        assert_eq!(mount("/data/=pvc/big.volume"), Ok(claim));
        let image = Source::Image("registry.example/task@sha256:00".into());
        assert_eq!("image/registry.example/task@sha256:00".parse(), Ok(image));
        assert_eq!("emptydir/1Gi".parse(), Ok(Source::EmptyDir(Some(Quantity("1Gi".into())))));
        for bad in [
            "/data",
            "data=pvc/a",
            "/a:b=pvc/a",
            "/a/../b=pvc/a",
            "/a=pvc/",
            "/a=pvc/A",
            "/a=hostpath/etc",
            "/a=emptydir/much",
        ] {
            assert!(mount(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_of_a_secret_has_a_default() {
        let key = |name: &str, key: &str| Ok(Key { name: Name(name.into()), key: key.into() });
        assert_eq!("broker".parse(), key("broker", "BROKER_URL"));
        assert_eq!("mq/uri".parse(), key("mq", "uri"));
        assert!("mq/".parse::<Key>().is_err() && "mq/a b".parse::<Key>().is_err() && "Mq".parse::<Key>().is_err());
    }

    #[test]
    fn amounts_are_those_of_kubernetes() {
        for good in ["1", "0.5", "100m", "1.5Gi", "64Mi", "2k"] {
            assert!(good.parse::<Quantity>().is_ok(), "{good}");
        }
        for bad in ["", "m", "64MiB", "-1", "1 Gi", "1e3", "nan", "inf"] {
            assert!(bad.parse::<Quantity>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_name_that_resembles_a_text_is_a_name(text in ".{0,80}") {
            if let Some(name) = Name::resembling(&text) {
                prop_assert_eq!(name.0.parse::<Name>(), Ok(name));
            }
        }

        #[test]
        fn nothing_that_is_typed_can_make_them_panic(text in "(/?[a-z]{0,9}[=/]?)?.{0,30}") {
            let _ = (text.parse::<Mount>(), text.parse::<Key>(), text.parse::<EnvFrom>());
            let _ = (text.parse::<Amount>(), text.parse::<Completions>());
        }
    }

    #[test]
    fn a_queue_lends_its_name() {
        let name = |text: &str| Name::resembling(text).map(|name| name.0);
        assert_eq!(name("Jobs_Of.Today"), Some("jobs-of-today".into()));
        assert_eq!(name("…"), None);
        assert_eq!(name(&"x".repeat(90)), Some("x".repeat(LONGEST_NAME)));
    }
}
