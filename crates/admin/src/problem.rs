//! Errors as problem documents (RFC 9457).

use aether_cluster::{AskError, RegistryError};
use aether_types::Blame;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error, ToSchema)]
#[error("{detail}{}", logged(.log))]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// What kind of problem, in words that do not change.
    pub title: String,
    /// What happened, and what to do.
    pub detail: String,
    /// Seconds to wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// What a script logged before it was refused, the newest line last; bounded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

/// For people, under the detail.
fn logged(log: &[String]) -> String {
    log.iter().map(|line| format!("\n  it logged {line}")).collect()
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl std::fmt::Display) -> Problem {
        let title = status.canonical_reason().unwrap_or("Error").to_owned();
        Problem { status: status.as_u16(), title, detail: detail.to_string(), retry_after: None, log: Vec::new() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl From<AskError> for Problem {
    fn from(error: AskError) -> Problem {
        let status = match &error {
            AskError::NoWorld(_) => StatusCode::NOT_FOUND,
            AskError::Late(_) => StatusCode::GATEWAY_TIMEOUT,
            AskError::Elsewhere { .. } => StatusCode::MISDIRECTED_REQUEST,
            AskError::Gone(_) | AskError::Refused(_) | AskError::NoCluster => StatusCode::CONFLICT,
        };
        Problem::new(status, error)
    }
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Problem {
        let status = match &error {
            RegistryError::Unknown { .. } | RegistryError::NoScript { .. } => StatusCode::NOT_FOUND,
            RegistryError::Busy(_) | RegistryError::NothingBefore { .. } => StatusCode::CONFLICT,
            RegistryError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            error if error.blame() == Blame::Script => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut problem = Problem::new(status, &error);
        if let RegistryError::RolledBack { log, .. } = error {
            problem.log = log;
        }
        problem
    }
}

macro_rules! from_rejection {
    ($($rejection:ident),*) => {$(
        impl From<$rejection> for Problem {
            fn from(error: $rejection) -> Problem {
                Problem::new(error.status(), error.body_text())
            }
        }
    )*};
}
from_rejection!(JsonRejection, PathRejection, QueryRejection);
