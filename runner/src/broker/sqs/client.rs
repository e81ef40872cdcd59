//! Signed requests to SQS: one POST with JSON for each call. Signing and connections are AWS's own crates.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::{HttpConnector as _, HttpConnectorSettings};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::DateTime;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use aws_smithy_types::date_time::Format;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::credentials::{Credentials, Keys};
use super::error::{Refusal, Sort};
use super::url::Url;
use crate::broker::error::Error;
use crate::causes::chain;
use crate::locks::lock;

/// For the answer to a request that does not wait for messages.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a request is repeated while SQS is away or throttles. Less than the 10 s that most callers wait, so that they get
/// SQS's error.
const PATIENCE: Duration = Duration::from_secs(7);

const PAUSE_INITIAL: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// As AWS's signatures and rights name the service.
const SERVICE: &str = "sqs";

/// The way to SQS in one region, shared by all that a process does there.
pub struct Client {
    connector: Connector,
    credentials: Credentials,
    region: String,
    /// Scheme, host and port.
    endpoint: String,
    /// Whether the last request failed, so that an outage is said once.
    is_away: AtomicBool,
    /// When the last answer came, by our clock and by the server's; there if somebody wants to know.
    times: Option<Mutex<Option<Times>>>,
}

/// A moment by our clock, and by the server's.
type Times = (SystemTime, SystemTime);

/// A call: what is asked for, and what errors say of it.
pub struct Call<'a> {
    pub action: &'static str,
    /// As a sentence goes on: "take from".
    pub doing: &'static str,
    pub queue: &'a str,
    /// How long SQS waits before it answers.
    pub wait: Duration,
    /// Whether the call may be repeated although it may have been carried out.
    pub repeats: bool,
}

enum Failed {
    Refused(Refusal),
    Unanswered,
    Unreachable(Box<dyn std::error::Error + Send + Sync>),
    Other(Error),
}

impl<'a> Call<'a> {
    pub fn new(action: &'static str, doing: &'static str, queue: &'a str) -> Call<'a> {
        Call { action, doing, queue, wait: Duration::ZERO, repeats: true }
    }

    fn what(&self) -> String {
        format!("{} the queue `{}`", self.doing, self.queue)
    }
}

impl Client {
    /// # Errors
    /// When a variable of the environment holds no endpoint.
    pub fn new(url: &Url) -> Result<Arc<Client>, Error> {
        Client::make(url, None)
    }

    /// One that knows [`Client::times`].
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn watching_the_time(url: &Url) -> Result<Arc<Client>, Error> {
        Client::make(url, Some(Mutex::default()))
    }

    fn make(url: &Url, times: Option<Mutex<Option<Times>>>) -> Result<Arc<Client>, Error> {
        let endpoint = url
            .endpoint(|name| std::env::var(name).ok())
            .map_err(|reason| Error::Settings { what: "the endpoint of SQS".into(), source: reason.into() })?;
        let settings = HttpConnectorSettings::builder().connect_timeout(CONNECT_TIMEOUT).build();
        let connector = Connector::builder()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .proxy_config(ProxyConfig::from_env())
            .connector_settings(settings)
            .build();
        // For those who hand out credentials: their crate chooses its own timeouts.
        let http = Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let config = ProviderConfig::without_region()
            .with_region(Some(Region::new(url.region.clone())))
            .with_behavior_version(Some(BehaviorVersion::latest()))
            .with_http_client(http);
        let credentials = Credentials::new(&config, endpoint.clone());
        let is_away = AtomicBool::new(false);
        Ok(Arc::new(Client { connector, credentials, region: url.region.clone(), endpoint, is_away, times }))
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// When the last answer came, by our clock and by the server's.
    pub fn times(&self) -> Option<(SystemTime, SystemTime)> {
        *lock(self.times.as_ref()?)
    }

    /// Sees that there are credentials.
    pub async fn check_credentials(&self) -> Result<(), Error> {
        self.credentials.get().await.map(drop)
    }

    /// Makes a call, and repeats it for a while where that may help.
    ///
    /// # Errors
    /// In the words of all brokers.
    pub async fn call<A: DeserializeOwned>(&self, call: &Call<'_>, input: &impl Serialize) -> Result<A, Error> {
        let body = serde_json::to_vec(input).map_err(|error| self.wrong(call, &error))?;
        let answer = self.ask(call, body.into()).await?;
        // Some calls are answered with nothing at all.
        let answer: &[u8] = if answer.is_empty() { b"{}" } else { &answer };
        serde_json::from_slice(answer).map_err(|error| self.wrong(call, &error))
    }

    async fn ask(&self, call: &Call<'_>, body: Bytes) -> Result<Bytes, Error> {
        let until = Instant::now() + PATIENCE;
        let mut pause = PAUSE_INITIAL;
        let mut renewed = false;
        loop {
            let keys = self.credentials.get().await?;
            let failed = match self.send(call, &body, &keys).await {
                Ok(answer) => {
                    if self.is_away.swap(false, Ordering::Relaxed) {
                        tracing::info!("SQS answers again");
                    }
                    return Ok(answer);
                }
                Err(failed) => failed,
            };
            match &failed {
                // Its clock and ours may differ on when they end.
                Failed::Refused(refusal) if refusal.sort() == Sort::Stale && !renewed => {
                    renewed = true;
                    self.credentials.forget(&keys).await;
                    continue;
                }
                failed if failed.passes(call.repeats) && Instant::now() + pause < until => {}
                _ => return Err(failed.into_error(self, call)),
            }
            if !self.is_away.swap(true, Ordering::Relaxed) {
                tracing::warn!(error = %failed, "a request to SQS failed; trying again");
            }
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// One request and its answer.
    async fn send(&self, call: &Call<'_>, body: &Bytes, keys: &Keys) -> Result<Bytes, Failed> {
        let request = self.signed(call.action, body, keys, SystemTime::now()).map_err(Failed::Other)?;
        let answering = async {
            let answer =
                self.connector.call(request).await.map_err(|error| Failed::Unreachable(error.into_source()))?;
            if let (Some(times), Some(date)) = (&self.times, answer.headers().get("date"))
                && let Ok(theirs) = DateTime::from_str(date, Format::HttpDate)
            {
                *lock(times) = theirs.try_into().ok().map(|theirs| (SystemTime::now(), theirs));
            }
            let status = answer.status();
            let body = ByteStream::new(answer.into_body()).collect().await;
            let body = body.map_err(|error| Failed::Unreachable(error.into()))?.into_bytes();
            if status.is_success() { Ok(body) } else { Err(Failed::Refused(Refusal::read(status.as_u16(), &body))) }
        };
        let began = Instant::now();
        let answered = tokio::time::timeout(call.wait + ANSWER_TIMEOUT, answering).await;
        let answered = answered.unwrap_or(Err(Failed::Unanswered));
        let ms = began.elapsed().as_millis() as u64;
        let bytes = answered.as_ref().map_or(0, Bytes::len);
        tracing::debug!(action = call.action, queue = call.queue, ms, bytes, answered = answered.is_ok(), "asked SQS");
        answered
    }

    fn signed(&self, action: &str, body: &Bytes, keys: &Keys, at: SystemTime) -> Result<HttpRequest, Error> {
        let wrong = |error: &(dyn std::error::Error + 'static)| Error::Settings {
            what: "the endpoint of SQS".into(),
            source: chain(error).into(),
        };
        let host = self.endpoint.split_once("://").map_or("", |(_, host)| host);
        let target = format!("AmazonSQS.{action}");
        let headers =
            [("content-type", "application/x-amz-json-1.0"), ("host", host), ("x-amz-target", target.as_str())];
        let uri = format!("{}/", self.endpoint);
        let identity = keys.clone().into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(SERVICE)
            .time(at)
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| wrong(&error))?;
        let signable = SignableRequest::new("POST", &uri, headers.into_iter(), SignableBody::Bytes(body));
        let signable = signable.map_err(|error| wrong(&error))?;
        let (instructions, _) = sign(signable, &params.into()).map_err(|error| wrong(&error))?.into_parts();
        let mut request = HttpRequest::new(SdkBody::from(body.clone()));
        request.set_method("POST").map_err(|error| wrong(&error))?;
        request.set_uri(uri.as_str()).map_err(|error| wrong(&error))?;
        for (name, value) in headers {
            request.headers_mut().try_insert(name, value.to_owned()).map_err(|error| wrong(&error))?;
        }
        for (name, value) in instructions.headers() {
            request.headers_mut().try_insert(name.to_owned(), value.to_owned()).map_err(|error| wrong(&error))?;
        }
        Ok(request)
    }

    fn wrong(&self, call: &Call<'_>, error: &serde_json::Error) -> Error {
        Error::Mismatch { doing: call.what(), source: format!("the answer can't be read: {error}").into() }
    }
}

impl Failed {
    fn passes(&self, repeats: bool) -> bool {
        match self {
            Failed::Refused(refusal) if repeats => refusal.sort() == Sort::Passes,
            Failed::Refused(refusal) => refusal.was_throttled(),
            Failed::Unanswered | Failed::Unreachable(_) => repeats,
            Failed::Other(_) => false,
        }
    }

    fn into_error(self, client: &Client, call: &Call<'_>) -> Error {
        match self {
            Failed::Refused(refusal) => refusal.into_error(&client.endpoint, &call.what(), call.queue),
            Failed::Unanswered => Error::Unanswered { doing: call.what() },
            Failed::Unreachable(source) => Error::Unreachable { address: client.endpoint.clone(), source },
            Failed::Other(error) => error,
        }
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failed::Refused(refusal) => write!(f, "{refusal}"),
            Failed::Unanswered => write!(f, "no answer in time"),
            Failed::Unreachable(source) => write!(f, "{}", chain(&**source)),
            Failed::Other(error) => write!(f, "{error}"),
        }
    }
}
