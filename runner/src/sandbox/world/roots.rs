//! The certificates of authorities that a guest's encrypted requests are checked against.

use std::fmt;

use data_encoding::BASE64;
use rustls_native_certs::{CertificateResult, load_native_certs};
use serde::{Deserialize, Serialize};

/// Certificates of authorities as DER, in base64. They are read by the worker: its processes see neither its environment nor
/// its files.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Roots(Vec<String>);

impl Roots {
    /// Those of the system, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
    ///
    /// # Errors
    /// When there are none.
    pub fn of_the_system() -> Result<Roots, String> {
        let CertificateResult { certs, errors, .. } = load_native_certs();
        if certs.is_empty() {
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            return Err(if errors.is_empty() { "there are none".to_owned() } else { errors.join("; ") });
        }
        Ok(Roots(certs.iter().map(|certificate| BASE64.encode(certificate)).collect()))
    }

    pub fn each(&self) -> impl Iterator<Item = Vec<u8>> {
        self.0.iter().filter_map(|certificate| BASE64.decode(certificate.as_bytes()).ok())
    }
}

/// How many there are: all of them are a hundred pages.
impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} certificates", self.0.len())
    }
}
