//! Fuzz targets of the brokers: see `crate::fuzz`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

pub use super::amqp::fuzz::headers;
pub use super::sqlite::fuzz::queue_file;

use super::Url;

/// A broker's address. What is shown of it, or said about it, never holds the password.
pub fn url(bytes: &[u8]) {
    const PASSWORD: &str = "s3cret-Of-Mine";
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(url) = text.parse::<Url>() {
        let _ = (url.to_string(), url.broker().longest_delay_queue("q", std::time::Duration::MAX));
    }
    if text.to_lowercase().contains(&PASSWORD.to_lowercase()) {
        return;
    }
    for scheme in ["amqp", "amqps"] {
        let shown = match format!("{scheme}://user:{PASSWORD}{text}").parse::<Url>() {
            Ok(url) => format!("{url} {url:?}"),
            Err(error) => format!("{error} {error:?}"),
        };
        // A password may be lower case where it was taken for a host.
        assert!(!shown.to_lowercase().contains(&PASSWORD.to_lowercase()), "{shown}");
    }
}
