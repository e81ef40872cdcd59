//! Sends HTTP requests by WASI 0.3, as its arguments say. It is the twin of `fetch`.

use wasip3::cli::{environment, stderr, stdout};
use wasip3::clocks::monotonic_clock;
use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, Response, Scheme};
use wasip3::{spawn_local, wit_future, wit_stream};

wasip3::cli::command::export!(Fetch);

struct Fetch;

impl wasip3::exports::cli::run::Guest for Fetch {
    async fn run() -> Result<(), ()> {
        let args = environment::get_arguments();
        let words: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
        let done = match words[..] {
            ["many", count, scheme, authority] => many(count.parse().expect("a number"), scheme, authority).await,
            ["hang", scheme, authority, path] => hang(scheme, authority, path).await,
            ["with", name, value, scheme, authority, path, bytes] => {
                match Fields::from_list(&[(name.into(), value.into())]) {
                    Ok(fields) => one(fields, "POST", scheme, authority, path, bytes.parse().expect("a number")).await,
                    Err(error) => Err(format!("{error:?}")),
                }
            }
            ["twice", scheme, authority, path] => match one(Fields::new(), "GET", scheme, authority, path, 0).await {
                Ok(()) => one(Fields::new(), "GET", scheme, authority, path, 0).await,
                Err(error) => Err(error),
            },
            [method, scheme, authority, path] => one(Fields::new(), method, scheme, authority, path, 0).await,
            [method, scheme, authority, path, bytes] => {
                one(Fields::new(), method, scheme, authority, path, bytes.parse().expect("a number")).await
            }
            _ => panic!("there is no {words:?}"),
        };
        if let Err(error) = done {
            say(format!("refused: {error:?}\n")).await;
            return Err(());
        }
        Ok(())
    }
}

async fn say(text: String) {
    let (mut writer, reader) = wit_stream::new();
    let written = stderr::write_via_stream(reader);
    writer.write_all(text.into_bytes()).await;
    drop(writer);
    let _ = written.await;
}

async fn print(text: String) {
    let (mut writer, reader) = wit_stream::new();
    let written = stdout::write_via_stream(reader);
    writer.write_all(text.into_bytes()).await;
    drop(writer);
    let _ = written.await;
}

async fn answer(
    fields: Fields,
    method: &str,
    scheme: &str,
    authority: &str,
    path: &str,
    bytes: usize,
) -> Result<Response, ErrorCode> {
    let (mut body, contents) = wit_stream::new();
    let (trailers, no_trailers) = wit_future::new(|| Ok(None));
    let (request, _sent) = Request::new(fields, Some(contents), no_trailers, None);
    request.set_method(&method_of(method)).expect("a method");
    request.set_scheme(Some(&scheme_of(scheme))).expect("a scheme");
    request.set_authority(Some(authority)).map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    request.set_path_with_query(Some(path)).map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    spawn_local(async move {
        if bytes > 0 {
            body.write_all(vec![b'x'; bytes]).await;
        }
        drop(body);
        let _ = trailers.write(Ok(None)).await;
    });
    client::send(request).await
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

async fn one(
    fields: Fields,
    method: &str,
    scheme: &str,
    authority: &str,
    path: &str,
    bytes: usize,
) -> Result<(), String> {
    let response =
        answer(fields, method, scheme, authority, path, bytes).await.map_err(|error| format!("{error:?}"))?;
    print(format!("{} ", response.get_status_code())).await;
    let (_done, is_done) = wit_future::new(|| Ok(()));
    let (body, trailers) = Response::consume_body(response, is_done);
    stdout::write_via_stream(body).await.map_err(|error| format!("{error:?}"))?;
    trailers.await.map(drop).map_err(|error| format!("{error:?}"))
}

async fn many(count: usize, scheme: &str, authority: &str) -> Result<(), String> {
    let begun: Vec<_> = (0..count)
        .map(|_| {
            let (scheme, authority) = (scheme.to_owned(), authority.to_owned());
            spawn_local(async move { answer(Fields::new(), "GET", &scheme, &authority, "/", 0).await })
        })
        .collect();
    let mut answers = Vec::new();
    for answer in begun {
        answers.push(answer.await.expect("it is not given up"));
    }
    let refused: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    print(format!("{} answered\n", answers.len() - refused.len())).await;
    refused.first().map_or(Ok(()), |error| Err(format!("{error:?}")))
}

async fn hang(scheme: &str, authority: &str, path: &str) -> Result<(), String> {
    let response = answer(Fields::new(), "GET", scheme, authority, path, 0).await;
    let _kept = response.map_err(|error| format!("{error:?}"))?;
    say("hanging\n".to_owned()).await;
    monotonic_clock::wait_for(3_600_000_000_000).await;
    Ok(())
}
