//! Decodes parts of brokers' addresses.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Decodes a part of a URL. `what` names it in an error, which never holds a part of the URL itself.
///
/// # Errors
/// When it is not UTF-8, or holds a lone `%`.
pub fn decoded(text: &str, what: &str) -> Result<String, String> {
    // Both parsers accept a lone `%`; as a part of a password it must not be taken for something else in silence.
    let is_escape = |after: &str| after.get(..2).is_some_and(|two| two.bytes().all(|digit| digit.is_ascii_hexdigit()));
    if !text.split('%').skip(1).all(is_escape) {
        return Err(format!("a `%` in the {what} is written %25"));
    }
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Cow::into_owned).map_err(|_| format!("the {what} is not UTF-8"))
}
