//! Failures of a TLS handshake that would be the same at every try.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::{CertificateError, Error as TlsError, InvalidMessage};

use crate::causes::chain;

/// What is wrong between a broker's TLS and its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFault {
    UnknownAuthority,
    OtherName,
    /// The port answers, and not with TLS.
    Plain,
    /// The port wants TLS, and the address has none.
    Wanted,
}

impl TlsFault {
    /// The fault behind an error, if it is one of these. A certificate that has run out is none: it may be renewed while a
    /// worker tries again.
    pub fn of(error: &(dyn Error + 'static)) -> Option<TlsFault> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(error) = error.downcast_ref() {
                return of(error);
            }
            // The `source` of each is the source of the error that it wraps. So the wrapped error is looked at first.
            next = if let Some(error) = error.downcast_ref::<io::Error>() {
                error.get_ref().map(|inner| inner as &(dyn Error + 'static))
            } else if let Some(shared) = error.downcast_ref::<Arc<dyn Error + Send + Sync>>() {
                Some(&**shared as &(dyn Error + 'static))
            } else {
                error.source()
            };
        }
        None
    }
}

fn of(error: &TlsError) -> Option<TlsFault> {
    match error {
        TlsError::InvalidCertificate(CertificateError::UnknownIssuer) => Some(TlsFault::UnknownAuthority),
        TlsError::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => Some(TlsFault::OtherName),
        TlsError::InvalidMessage(InvalidMessage::InvalidContentType) => Some(TlsFault::Plain),
        _ => None,
    }
}

/// Says it of "the broker at ADDRESS".
impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TlsFault::UnknownAuthority => "has a certificate of an authority that is not trusted here",
            TlsFault::OtherName => "has a certificate for another host name",
            TlsFault::Plain => "does not speak TLS on this port",
            TlsFault::Wanted => "expects TLS on this port, but the address is one without TLS",
        })
    }
}

/// Whether an error of a connection is about its encryption. Libraries wrap the errors of theirs in several ways, and all of them
/// keep the words.
pub fn is_about_it(error: &(dyn Error + 'static)) -> bool {
    const WORDS: [&str; 5] =
        ["invalid peer certificate", "certificate expired", "CertificateRequired", "fatal alert", "corrupt message"];
    let said = chain(error);
    TlsFault::of(error).is_some() || WORDS.iter().any(|words| said.contains(words))
}

/// What helps against an error that may pass, so that it is no [`TlsFault`].
pub fn hint(error: &(dyn Error + 'static)) -> Option<&'static str> {
    const HINTS: [(&str, &str); 3] = [
        ("Expired", "renew the certificate, or set the clock of this host"),
        ("NotValidYet", "set the clock of this host: the certificate is not valid yet"),
        (
            "CertificateRequired",
            "the broker wants a certificate: `certfile` and `keyfile` in --broker (BROKER_URL) name one",
        ),
    ];
    if !is_about_it(error) {
        return None;
    }
    let said = chain(error);
    HINTS.iter().find(|(words, _)| said.contains(words)).map(|(_, hint)| *hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_found_behind_the_errors_that_wrap_it() {
        let unknown = || TlsError::InvalidCertificate(CertificateError::UnknownIssuer);
        let wrapped = io::Error::new(io::ErrorKind::InvalidData, unknown());
        assert_eq!(TlsFault::of(&wrapped), Some(TlsFault::UnknownAuthority));
        let shared: Arc<dyn Error + Send + Sync> = Arc::new(io::Error::other(wrapped));
        assert_eq!(TlsFault::of(&shared), Some(TlsFault::UnknownAuthority));
    }

    #[test]
    fn what_may_pass_is_no_fault() {
        assert_eq!(TlsFault::of(&io::Error::from(io::ErrorKind::ConnectionReset)), None);
        let expired = TlsError::InvalidCertificate(CertificateError::Expired);
        assert_eq!(TlsFault::of(&io::Error::other(expired)), None);
    }
}
