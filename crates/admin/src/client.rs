//! The other side: asks a node on its socket.

use crate::problem::Problem;
use crate::{PublishBody, Request};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// Why nothing was answered, or what was.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no node answers on {path}: start it with `aether run`, or name the cluster file that it was started with")]
    NoNode {
        /// Where.
        path: PathBuf,
        /// What was tried.
        source: std::io::Error,
    },
    /// It said no.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// The connection broke, or what came is no answer.
    #[error("the node's answer could not be read: {0}")]
    Answer(String),
    /// It took too long.
    #[error("the node did not answer within {} s; it may still do what it was asked", .0.as_secs())]
    Late(Duration),
}

/// The largest answer: the status of thousands of worlds.
const ANSWER_MAX: usize = 256 << 20;
/// A reload watches its new version for some seconds, and a busy node takes its time.
const ANSWER_TIME: Duration = Duration::from_secs(180);

/// Asks a node.
#[derive(Debug, Clone)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// A node's socket.
    pub fn new(path: PathBuf) -> Client {
        Client { path }
    }

    /// Ask; gives the answer's JSON.
    pub fn ask(&self, request: &Request, body: &impl Serialize) -> Result<Value, ClientError> {
        let answer = |error: &dyn std::fmt::Display| ClientError::Answer(error.to_string());
        let body = serde_json::to_vec(body).map_err(|e| answer(&e))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| answer(&e))?;
        runtime.block_on(async {
            match tokio::time::timeout(ANSWER_TIME, self.exchange(request, body)).await {
                Ok(answered) => answered,
                Err(_) => Err(ClientError::Late(ANSWER_TIME)),
            }
        })
    }

    async fn exchange(&self, request: &Request, body: Vec<u8>) -> Result<Value, ClientError> {
        let answer = |error: &dyn std::fmt::Display| ClientError::Answer(error.to_string());
        let stream = tokio::net::UnixStream::connect(&self.path).await;
        let stream = stream.map_err(|source| ClientError::NoNode { path: self.path.clone(), source })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| answer(&e))?;
        tokio::spawn(connection);
        let (method, path) = request.route();
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "node")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| answer(&e))?;
        let response = sender.send_request(request).await.map_err(|e| answer(&e))?;
        let good = response.status().is_success();
        let bytes = Limited::new(response.into_body(), ANSWER_MAX).collect().await.map_err(|e| answer(&e))?.to_bytes();
        if good {
            return serde_json::from_slice(&bytes).map_err(|e| answer(&e));
        }
        Err(match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) => problem.into(),
            Err(_) => answer(&String::from_utf8_lossy(&bytes)),
        })
    }

    /// Publish a script, or say what that would do.
    pub fn publish(&self, manifest: String, wasm: &[u8], plan: bool, canary: Option<usize>) -> Result<Value, ClientError> {
        self.ask(&Request::Publish { plan, canary }, &PublishBody { manifest, wasm: BASE64_STANDARD.encode(wasm) })
    }
}
