//! Errors as problem documents (RFC 9457).

use aether_cluster::{AskError, RegistryError};
use aether_types::Blame;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// What kind of problem, in words that do not change.
    pub title: String,
    /// What happened, and what to do.
    pub detail: String,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl std::fmt::Display) -> Problem {
        let title = status.canonical_reason().unwrap_or("Error").to_owned();
        Problem { status: status.as_u16(), title, detail: detail.to_string() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
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
            RegistryError::Unknown { .. } => StatusCode::NOT_FOUND,
            RegistryError::Busy(_) | RegistryError::NothingBefore { .. } => StatusCode::CONFLICT,
            RegistryError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            error if error.blame() == Blame::Script => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Problem::new(status, error)
    }
}
