//! Where spans are sent: by OTLP over HTTP, if OpenTelemetry's standard variables ask for it.

use std::env;
use std::error::Error;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::causes::chain;

/// How long the end of the process may wait for the last spans: a collector that does not answer costs no more. It is less
/// than what the last resort of a shutdown leaves.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// OpenTelemetry's default for one export.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// Starts to export spans, where the environment asks for it. A worker works without them: what is wrong is only said.
pub fn init() {
    if !wanted() {
        return;
    }
    match provider() {
        Ok(provider) => drop(PROVIDER.set(provider)),
        Err(error) => tracing::warn!(error = %chain(&*error), "no traces are exported (OTEL_EXPORTER_OTLP_…)"),
    }
}

/// Sends what is left. Returns after a bounded time.
pub fn flush() {
    if let Some(provider) = PROVIDER.get()
        && let Err(error) = provider.shutdown_with_timeout(FLUSH_TIMEOUT)
    {
        tracing::warn!(error = %chain(&error), "the last spans may not have arrived");
    }
}

pub(super) fn provider_if_any() -> Option<&'static SdkTracerProvider> {
    PROVIDER.get()
}

/// By the names and rules of OpenTelemetry's specification.
fn wanted() -> bool {
    let variable = |name: &str| env::var(name).unwrap_or_default();
    if variable("OTEL_SDK_DISABLED").eq_ignore_ascii_case("true") {
        return false;
    }
    match variable("OTEL_TRACES_EXPORTER").as_str() {
        "otlp" => true,
        // The specification's default is to send to localhost; ours is to send nothing unless somebody asks.
        "" => ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]
            .iter()
            .any(|name| !variable(name).is_empty()),
        "none" => false,
        other => {
            tracing::warn!(exporter = other, "no traces are exported: OTEL_TRACES_EXPORTER is neither otlp nor none");
            false
        }
    }
}

fn provider() -> Result<SdkTracerProvider, Box<dyn Error + Send + Sync>> {
    let protocol = env::var("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL").or_else(|_| env::var("OTEL_EXPORTER_OTLP_PROTOCOL"));
    if let Some(protocol) = protocol.ok().filter(|protocol| !["", "http/protobuf"].contains(&protocol.as_str())) {
        return Err(format!("OTEL_EXPORTER_OTLP_PROTOCOL is `{protocol}`, and we speak http/protobuf").into());
    }
    let exporter = SpanExporter::builder().with_http().with_http_client(Client(agent()?)).build()?;
    let named = env::var("OTEL_SERVICE_NAME").is_ok_and(|name| !name.is_empty())
        || env::var("OTEL_RESOURCE_ATTRIBUTES").is_ok_and(|text| text.contains("service.name="));
    let mut resource = Resource::builder();
    if !named {
        resource = resource.with_service_name("wq-run");
    }
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build())
}

/// The exporter calls us on a thread of its own, so a client that blocks is the right one, and the smallest. It shares the
/// TLS library and the system's certificates with the broker's connections.
#[derive(Debug)]
struct Client(Agent);

fn agent() -> Result<Agent, Box<dyn Error + Send + Sync>> {
    let timeout = env::var("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT").or_else(|_| env::var("OTEL_EXPORTER_OTLP_TIMEOUT"));
    let timeout = timeout.ok().and_then(|text| text.parse().ok()).map_or(EXPORT_TIMEOUT, Duration::from_millis);
    let system = rustls_native_certs::load_native_certs().certs;
    let certificates: Vec<_> = system.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect();
    let tls = TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .root_certs(RootCerts::new_with_certs(&certificates))
        .build();
    let config = Agent::config_builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .max_redirects(0)
        .tls_config(tls)
        .build();
    Ok(config.into())
}

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let answered = self.0.run(Request::from_parts(parts, &body[..])).and_then(|response| {
            let (parts, mut body) = response.into_parts();
            Ok(Response::from_parts(parts, Bytes::from(body.read_to_vec()?)))
        });
        match &answered {
            Ok(response) if response.status().is_success() => {}
            Ok(response) => tracing::warn!(status = response.status().as_u16(), "the collector refused spans"),
            Err(error) => tracing::warn!(error = %chain(error), "spans could not be sent"),
        }
        Ok(answered?)
    }
}
