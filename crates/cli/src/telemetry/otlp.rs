//! Spans as OTLP: protobuf over HTTP, in batches, from a thread of its own. A collector that is away costs nothing but the spans: the queue
//! is bounded, what does not fit is dropped and said once.
//!
//! TLS is not spoken: the collector is an agent on this machine or in the node's network.

use aether_cluster::trace::{self, Carrier};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use std::collections::HashMap;
use std::pin::Pin;
use std::time::Duration;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt};
use tracing_subscriber::registry::LookupSpan;

/// For a batch to be taken.
const SEND_TIME: Duration = Duration::from_secs(5);
/// For the last batch, when the node ends.
const END_TIME: Duration = Duration::from_secs(3);
/// A collector answers with nothing, or a word about what it refused.
const ANSWER_MAX: usize = 64 << 10;

/// See the file.
pub(super) struct Exporter(SdkTracerProvider);

impl Exporter {
    pub(super) fn new(endpoint: &str, node: &str) -> Result<Exporter, Box<dyn std::error::Error>> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Post::new()?)
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .with_timeout(SEND_TIME)
            .build()
            .map_err(|error| format!("node.otlp_endpoint {endpoint:?}: {error}"))?;
        let resource = Resource::builder_empty()
            .with_service_name("aether")
            .with_attributes([
                KeyValue::new("service.instance.id", node.to_owned()),
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            ])
            .build();
        trace::install(Carrier { write, adopt });
        Ok(Exporter(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build()))
    }

    pub(super) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> OpenTelemetryLayer<S, SdkTracer> {
        tracing_opentelemetry::layer().with_tracer(self.0.tracer("aether")).with_threads(false)
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        // A collector that is away must not keep the node from ending.
        let _ = self.0.shutdown_with_timeout(END_TIME);
    }
}

/// The `traceparent` of a span.
fn write(span: &Span) -> Option<String> {
    let context = span.context();
    let context = context.span().span_context().clone();
    let flags = context.trace_flags().to_u8();
    context.is_valid().then(|| format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id()))
}

fn adopt(span: &Span, parent: &str) {
    let carrier = HashMap::from([("traceparent".to_owned(), parent.to_owned())]);
    // What is no `traceparent` gives an empty context: the span begins a trace of its own.
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier);
    let _ = span.set_parent(context);
}

/// The HTTP client: one request, one connection.
#[derive(Debug)]
struct Post {
    /// Used by the exporter's thread only.
    runtime: tokio::runtime::Runtime,
}

impl Post {
    fn new() -> std::io::Result<Post> {
        Ok(Post { runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()? })
    }
}

impl HttpClient for Post {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move { self.runtime.block_on(async { tokio::time::timeout(SEND_TIME, exchange(request)).await })? })
    }
}

async fn exchange(request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let authority = request.uri().authority().ok_or("no host")?.clone();
    let stream =
        tokio::net::TcpStream::connect((authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(80))).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let (mut head, body) = request.into_parts();
    head.headers.insert(hyper::header::HOST, authority.as_str().parse()?);
    head.uri = head.uri.path().parse()?;
    let response = sender.send_request(Request::from_parts(head, Full::new(body))).await?;
    let (head, body) = response.into_parts();
    Ok(Response::from_parts(head, Limited::new(body, ANSWER_MAX).collect().await?.to_bytes()))
}
