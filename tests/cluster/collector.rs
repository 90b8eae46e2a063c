//! A collector of traces: takes OTLP over HTTP, as protobuf, and keeps the spans. Ends with the test.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use prost::Message;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A span as it came.
#[derive(Debug, Clone)]
pub struct Span {
    /// The node that sent it.
    pub node: String,
    pub name: String,
    pub trace: Vec<u8>,
    pub id: Vec<u8>,
    pub parent: Vec<u8>,
    /// Its attribute `world`, if it has one.
    pub world: Option<String>,
    pub nanoseconds: u64,
}

/// See the file.
pub struct Collector {
    pub url: String,
    spans: Arc<Mutex<Vec<Span>>>,
    end: Arc<AtomicBool>,
}

impl Collector {
    pub fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (spans, end): (Arc<Mutex<Vec<Span>>>, _) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (kept, ended) = (Arc::clone(&spans), Arc::clone(&end));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let new = receive(stream).unwrap_or_default();
                kept.lock().unwrap().extend(new);
            }
        });
        Collector { url, spans, end }
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap().clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        // It waits for one more.
        let _ = TcpStream::connect(self.url.trim_start_matches("http://"));
    }
}

fn attribute(attributes: &[KeyValue], name: &str) -> Option<String> {
    let value = attributes.iter().find(|attribute| attribute.key == name)?.value.clone()?.value?;
    match value {
        any_value::Value::StringValue(text) => Some(text),
        _ => None,
    }
}

/// One request and its answer.
fn receive(stream: TcpStream) -> std::io::Result<Vec<Span>> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(&stream);
    let (mut line, mut length) = (String::new(), 0);
    reader.read_line(&mut line)?;
    assert!(line.is_empty() || line.starts_with("POST /v1/traces HTTP/1.1"), "{line}");
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().unwrap(),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    (&stream).write_all(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    )?;
    let request = ExportTraceServiceRequest::decode(body.as_slice()).map_err(std::io::Error::other)?;
    let mut spans = Vec::new();
    for resource in request.resource_spans {
        let attributes = resource.resource.map(|resource| resource.attributes).unwrap_or_default();
        assert_eq!(attribute(&attributes, "service.name").as_deref(), Some("aether"));
        let node = attribute(&attributes, "service.instance.id").unwrap();
        spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans).map(|span| Span {
            node: node.clone(),
            world: attribute(&span.attributes, "world"),
            name: span.name,
            trace: span.trace_id,
            id: span.span_id,
            parent: span.parent_span_id,
            nanoseconds: span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano),
        }));
    }
    Ok(spans)
}
