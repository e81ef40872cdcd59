//! What a guest wrote, in a case: its size and digest, and what it is.

use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::secrets::Secrets;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Output {
    /// Its size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// SHA-256 over what the guest wrote, before anything was taken out; in hexadecimal digits. Without it, `text` is the
    /// end of what the guest wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// In place of `text`, if the output is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}

impl Output {
    pub fn of(bytes: &[u8]) -> Output {
        let mut output = Output { bytes: Some(bytes.len() as u64), sha256: Some(digest(bytes)), ..Output::default() };
        match std::str::from_utf8(bytes) {
            Ok(text) => output.text = Some(text.to_owned()),
            Err(_) => output.base64 = Some(BASE64.encode(bytes)),
        }
        output
    }

    /// The end of an output of which no more is known.
    pub fn end(text: String) -> Output {
        Output { text: Some(text), ..Output::default() }
    }

    /// Takes secrets out of it. Returns whether there were any.
    pub(super) fn hide(&mut self, secrets: &Secrets) -> bool {
        let mut hidden = false;
        if let Some(text) = &mut self.text {
            hidden |= secrets.hide_in_text(text);
            // It may have been cut by a limit, and the last of stderr begins anywhere.
            hidden |= secrets.hide_at_edges(text);
        }
        if let Some(base64) = &self.base64
            && secrets.are_in(&BASE64.decode(base64.as_bytes()).unwrap_or_default())
        {
            self.base64 = None;
            hidden = true;
        }
        hidden
    }

    /// Whether a guest that wrote `bytes` wrote the same. `None` if that is not known. `is_whole` says that nothing was taken out.
    pub(super) fn is(&self, bytes: &[u8], is_whole: bool) -> Option<bool> {
        match (&self.sha256, &self.text) {
            (Some(sha256), _) => Some(*sha256 == digest(bytes)),
            (None, Some(text)) if is_whole => Some(bytes.ends_with(text.as_bytes())),
            _ => None,
        }
    }
}

pub(super) fn digest(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}
