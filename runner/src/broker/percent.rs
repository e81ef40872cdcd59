//! Percent-encoding in brokers' addresses: decodes their parts, and finds where it is missing.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Refuses a URL in which a user or a password seems to go on behind the host's place: parsed as it is, a part of the password
/// would be taken for the host's name, looked up and printed. The error holds no part of the URL.
pub fn check_credentials(url: &str) -> Result<(), String> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (authority, after) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // Without an authority there is no user either: the path of a socket may hold an `@`.
    if !authority.is_empty() && after.contains('@') {
        return Err("an `@` comes after a `/`, `?` or `#`; in a user, a password or a path, these characters are \
                    percent-encoded: @ is %40, / is %2F, ? is %3F, # is %23"
            .into());
    }
    Ok(())
}

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
