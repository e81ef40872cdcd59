//! Sends HTTP requests by WASI 0.2, as its arguments say. Prints the status and the body of an answer; says why there was none
//! on stderr, and fails.
//!
//! `METHOD SCHEME AUTHORITY PATH [BYTES]` is one request, with so many bytes of body. `many N SCHEME AUTHORITY` begins so many
//! requests before it looks at an answer. `hang SCHEME AUTHORITY PATH` takes an answer and keeps it. `with NAME VALUE SCHEME
//! AUTHORITY PATH BYTES` is a POST with this header field. `twice SCHEME AUTHORITY PATH` is one GET after the other.

use std::io::Write as _;

use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingBody, IncomingResponse, Method, OutgoingBody, OutgoingRequest,
    Scheme,
};
use wasip2::io::streams::StreamError;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["many", count, scheme, authority] => many(count.parse().expect("a number"), scheme, authority),
        ["hang", scheme, authority, path] => hang(scheme, authority, path),
        ["with", name, value, scheme, authority, path, bytes] => Fields::from_list(&[(name.into(), value.into())])
            .map_err(|error| format!("{error:?}"))
            .and_then(|fields| one(fields, "POST", scheme, authority, path, bytes.parse().expect("a number"))),
        ["twice", scheme, authority, path] => one(Fields::new(), "GET", scheme, authority, path, 0)
            .and_then(|()| one(Fields::new(), "GET", scheme, authority, path, 0)),
        [method, scheme, authority, path] => one(Fields::new(), method, scheme, authority, path, 0),
        [method, scheme, authority, path, bytes] => {
            one(Fields::new(), method, scheme, authority, path, bytes.parse().expect("a number"))
        }
        _ => panic!("there is no {words:?}"),
    };
    if let Err(error) = done {
        eprintln!("refused: {error:?}");
        std::process::exit(1);
    }
}

fn begin(
    fields: Fields,
    method: &str,
    scheme: &str,
    authority: &str,
    path: &str,
    bytes: usize,
) -> Result<FutureIncomingResponse, ErrorCode> {
    let request = OutgoingRequest::new(fields);
    request.set_method(&method_of(method)).expect("a method");
    request.set_scheme(Some(&scheme_of(scheme))).expect("a scheme");
    request.set_authority(Some(authority)).map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    request.set_path_with_query(Some(path)).map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    let body = request.body().expect("taken once");
    let answer = handle(request, None)?;
    if bytes > 0 {
        let stream = body.write().expect("taken once");
        for _ in 0..bytes.div_ceil(4096) {
            if stream.blocking_write_and_flush(&[b'x'; 4096]).is_err() {
                break;
            }
        }
    }
    let _ = OutgoingBody::finish(body, None);
    Ok(answer)
}

fn method_of(text: &str) -> Method {
    match text {
        "GET" => Method::Get,
        "POST" => Method::Post,
        "CONNECT" => Method::Connect,
        "TRACE" => Method::Trace,
        other => Method::Other(other.into()),
    }
}

fn scheme_of(text: &str) -> Scheme {
    match text {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.into()),
    }
}

fn answer(future: &FutureIncomingResponse) -> Result<IncomingResponse, ErrorCode> {
    future.subscribe().block();
    future.get().expect("it is ready").expect("taken once")
}

fn one(fields: Fields, method: &str, scheme: &str, authority: &str, path: &str, bytes: usize) -> Result<(), String> {
    let response = begin(fields, method, scheme, authority, path, bytes)
        .and_then(|future| answer(&future))
        .map_err(|error| format!("{error:?}"))?;
    print!("{} ", response.status());
    let body = response.consume().expect("taken once");
    let stream = body.stream().expect("taken once");
    loop {
        match stream.blocking_read(1 << 16) {
            Ok(piece) => std::io::stdout().write_all(&piece).expect("it is written"),
            Err(StreamError::Closed) => break,
            Err(StreamError::LastOperationFailed(error)) => {
                return Err(wasip2::http::types::http_error_code(&error)
                    .map_or_else(|| error.to_debug_string(), |error| format!("{error:?}")));
            }
        }
    }
    drop(stream);
    drop(IncomingBody::finish(body));
    Ok(())
}

fn many(count: usize, scheme: &str, authority: &str) -> Result<(), String> {
    let begun: Vec<_> = (0..count).map(|_| begin(Fields::new(), "GET", scheme, authority, "/", 0)).collect();
    let answers: Vec<_> = begun.into_iter().map(|begun| begun.and_then(|future| answer(&future))).collect();
    let refused: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    println!("{} answered", answers.len() - refused.len());
    refused.first().map_or(Ok(()), |error| Err(format!("{error:?}")))
}

fn hang(scheme: &str, authority: &str, path: &str) -> Result<(), String> {
    let response = begin(Fields::new(), "GET", scheme, authority, path, 0).and_then(|future| answer(&future));
    let _kept = response.map_err(|error| format!("{error:?}"))?;
    eprintln!("hanging");
    std::thread::sleep(std::time::Duration::from_secs(3600));
    Ok(())
}
