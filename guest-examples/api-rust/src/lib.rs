//! Asks an HTTP API for the item that its message names, and prints the answer's body. The variable `API_URL` says where the API is.
//! It is a component for WASI 0.3: the body goes from the connection to stdout as it comes.

use std::fmt;

use wasip3::cli::{environment, exit, stderr, stdin, stdout};
use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Request, Response, Scheme};
use wasip3::{wit_future, wit_stream};

/// EX_DATAERR of sysexits.h: the message itself is bad, and wq-run makes it a dead letter.
const BAD_MESSAGE: u8 = 65;

/// EX_TEMPFAIL: wq-run tries the message again.
const TRY_AGAIN: u8 = 75;

/// EX_CONFIG: no message can succeed. For wq-run it is a code like any other; `--exit-map` can say more.
const NO_API: u8 = 78;

wasip3::cli::command::export!(Api);

struct Api;

impl wasip3::exports::cli::run::Guest for Api {
    async fn run() -> Result<(), ()> {
        if let Err(failure) = answer().await {
            say(&format!("api-rust: {failure}\n")).await;
            exit::exit_with_code(failure.code());
        }
        Ok(())
    }
}

async fn answer() -> Result<(), Failure> {
    let variables = environment::get_environment();
    let url = variables.iter().find(|(name, _)| name == "API_URL").map(|(_, url)| url.as_str());
    let api = Base::parse(url.ok_or(Failure::NoApi)?).ok_or(Failure::NoApi)?;
    let (message, is_read) = stdin::read_via_stream();
    let message = message.collect().await;
    is_read.await.map_err(|error| Failure::Stream(format!("stdin: {error:?}")))?;
    let path = api.path_of(&message)?;

    let response = client::send(request(&api, &path)).await.map_err(Failure::NoAnswer)?;
    let status = response.get_status_code();
    if status != 200 {
        return Err(Failure::Status(status));
    }
    let (_done, is_done) = wit_future::new(|| Ok(()));
    let (body, trailers) = Response::consume_body(response, is_done);
    stdout::write_via_stream(body).await.map_err(|error| Failure::Stream(format!("stdout: {error:?}")))?;
    // A connection that was lost in the middle is told here. The run then fails, and nothing of what was written is delivered.
    trailers.await.map(drop).map_err(Failure::NoAnswer)
}

fn request(api: &Base, path: &str) -> Request {
    let headers = Fields::new();
    let _ = headers.append("accept", b"application/json");
    let (_trailers, no_trailers) = wit_future::new(|| Ok(None));
    let (request, _sent) = Request::new(headers, None, no_trailers, None);
    // None of these can fail: `Base` and `path_of` let only plain characters through.
    let _ = request.set_scheme(Some(&if api.is_encrypted { Scheme::Https } else { Scheme::Http }));
    let _ = request.set_authority(Some(&api.authority));
    let _ = request.set_path_with_query(Some(path));
    request
}

async fn say(text: &str) {
    let (mut writer, reader) = wit_stream::new();
    let written = stderr::write_via_stream(reader);
    writer.write_all(text.as_bytes().to_vec()).await;
    drop(writer);
    let _ = written.await;
}

/// Where the API is: `https://HOST[:PORT][/PATH]`.
#[derive(Debug, PartialEq, Eq)]
struct Base {
    is_encrypted: bool,
    authority: String,
    path: String,
}

impl Base {
    fn parse(url: &str) -> Option<Base> {
        let (scheme, rest) = url.split_once("://")?;
        let is_encrypted = match scheme {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~:/[]".contains(c);
        let is_right = !authority.is_empty() && rest.chars().all(is_plain);
        is_right.then(|| Base {
            is_encrypted,
            authority: authority.to_owned(),
            path: path.trim_end_matches('/').to_owned(),
        })
    }

    /// The message is one part of a path and never more: nobody who may only publish a message chooses where the request goes.
    fn path_of(&self, message: &[u8]) -> Result<String, Failure> {
        let name = std::str::from_utf8(message).map_err(|_| Failure::BadName)?.trim_end();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_~".contains(c);
        if name.is_empty() || !name.chars().all(is_plain) {
            return Err(Failure::BadName);
        }
        Ok(format!("{}/{name}", self.path))
    }
}

#[derive(Debug)]
enum Failure {
    NoApi,
    BadName,
    NoAnswer(ErrorCode),
    Status(u16),
    Stream(String),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Failure::NoApi => NO_API,
            // Too many requests, and a server that took too long to wait for this one.
            Failure::Status(408 | 429) => TRY_AGAIN,
            // All others of the 4xx say that the request is wrong.
            Failure::BadName | Failure::Status(400..=499) => BAD_MESSAGE,
            Failure::NoAnswer(_) | Failure::Status(_) | Failure::Stream(_) => TRY_AGAIN,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NoApi => {
                f.write_str("API_URL has to be http://HOST or https://HOST, with a port and a path or without")
            }
            Failure::BadName => f.write_str("the message is no name of an item: letters, digits, `-`, `_`, `~`"),
            Failure::NoAnswer(error) => write!(f, "no answer: {error:?}"),
            Failure::Status(status) => write!(f, "the API answered {status}"),
            Failure::Stream(error) => f.write_str(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_part_of_the_path() {
        let api = Base::parse("https://api.example:8443/v1/items/").unwrap();
        assert_eq!((api.is_encrypted, api.authority.as_str()), (true, "api.example:8443"));
        assert_eq!(api.path_of(b"a-7\n").unwrap(), "/v1/items/a-7");
        for message in [&b""[..], b"..", b"a/b", b"a?b", b"a%2fb", b"a b", b"\xff", b"a\r\nb"] {
            assert_eq!(api.path_of(message).unwrap_err().code(), BAD_MESSAGE, "{message:?}");
        }
        assert_eq!(Base::parse("http://localhost").unwrap().path_of(b"1").unwrap(), "/1");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for url in
            ["", "api.example", "ftp://api.example", "https://", "https:///x", "https://a b/", "https://user@host/"]
        {
            assert_eq!(Base::parse(url), None, "{url}");
        }
    }

    #[test]
    fn what_another_try_can_mend_is_tried_again() {
        let code = |status| Failure::Status(status).code();
        assert_eq!([400, 404, 410].map(code), [BAD_MESSAGE; 3]);
        assert_eq!([408, 429, 500, 503, 302].map(code), [TRY_AGAIN; 5]);
    }
}
