//! The door: who asks, whether they may, how often, and what is written down of it.
//!
//! [`pass`] stands before every route, of the socket and of the address alike. In order: the table of [`crate::access`], the token, the
//! rate, the role; a change is then read in whole, carried out in a task of its own (who hangs up does not stop it half way) and written
//! to the audit log. Not here: TLS and connections (`http`), tokens as such (`token`).

use crate::access::{self, Access, Role};
use crate::audit::{self, Audit, Record};
use crate::problem::Problem;
use crate::sources::network;
use crate::token::{Known, TokenStore};
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

/// Who asks, as handlers and the audit log see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Who {
    /// The token's id, or `socket`, or `loopback`.
    pub id: String,
    /// The token's name.
    pub name: String,
    pub role: Role,
    /// Whether they were let in without a token because none was ever made.
    pub unproven: bool,
}

/// Where a request of the address comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub SocketAddr);

/// Requests a second of one token, and how many at once.
const REQUESTS: (NonZeroU32, NonZeroU32) = (NonZeroU32::new(50).expect("not zero"), NonZeroU32::new(200).expect("not zero"));
/// Refused tokens a minute of one source before it is told to wait.
const FAILURES: NonZeroU32 = NonZeroU32::new(20).expect("not zero");
/// Buckets after which full ones are let go.
const BUCKETS_MAX: usize = 4_096;
/// The largest module in base64, with its manifest.
pub(crate) const PUBLISH_MAX: usize = 24 << 20;
/// The largest body of anything else.
const BODY_MAX: usize = 64 << 10;
/// Until a body has come.
const BODY_TIME: Duration = Duration::from_secs(60);
/// The largest answer to a change: a plan over thousands of worlds.
const ANSWER_MAX: usize = 16 << 20;

/// Which door.
pub(crate) enum Door {
    /// The Unix socket: whoever may open it may do everything.
    Socket,
    /// The address.
    Address {
        /// Who is known.
        tokens: TokenStore,
        /// Whether one is needed also on loopback before any was made.
        require_token: bool,
    },
}

/// A door with its guards.
pub(crate) struct Gate {
    pub door: Door,
    pub audit: Audit,
    requests: DefaultKeyedRateLimiter<String>,
    failures: DefaultKeyedRateLimiter<IpAddr>,
}

impl Gate {
    pub fn new(door: Door, audit: Audit) -> Gate {
        let requests = RateLimiter::keyed(Quota::per_second(REQUESTS.0).allow_burst(REQUESTS.1));
        Gate { door, audit, requests, failures: RateLimiter::keyed(Quota::per_minute(FAILURES)) }
    }

    /// Whether who was let in may stay: for streams, which outlive their request.
    pub fn may_stay(&self, who: &Who) -> bool {
        match &self.door {
            Door::Socket => true,
            Door::Address { tokens, .. } if who.unproven => matches!(*tokens.known(), Known::NeverMade),
            Door::Address { tokens, .. } => tokens.is_good(&who.id),
        }
    }

    fn identify(&self, peer: Option<SocketAddr>, headers: &HeaderMap) -> Result<Who, Problem> {
        let (tokens, require_token) = match &self.door {
            Door::Socket => {
                return Ok(Who { id: "socket".into(), name: String::new(), role: Role::Publisher, unproven: false });
            }
            Door::Address { tokens, require_token } => (tokens, *require_token),
        };
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer = given.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        if let Some((_, text)) = bearer {
            return match tokens.check(text.trim()) {
                Some(token) => Ok(Who { id: token.id, name: token.name, role: token.role, unproven: false }),
                None => Err(self.refuse(peer, "the token is not known here, has ended, or was revoked")),
            };
        }
        let local = peer.is_some_and(|peer| peer.ip().is_loopback()) && is_own_page(headers);
        if !require_token && local && matches!(*tokens.known(), Known::NeverMade) {
            return Ok(Who { id: "loopback".into(), name: String::new(), role: Role::Operator, unproven: true });
        }
        Err(self.refuse(
            peer,
            "a token is needed: `aether token make NAME --role ROLE` makes one, send it as `Authorization: Bearer`",
        ))
    }

    fn refuse(&self, peer: Option<SocketAddr>, why: &str) -> Problem {
        if self.failures.len() > BUCKETS_MAX {
            self.failures.retain_recent();
        }
        let Some(source) = peer.map(|peer| network(peer.ip())) else { return Problem::new(StatusCode::UNAUTHORIZED, why) };
        match self.failures.check_key(&source) {
            Ok(()) => Problem::new(StatusCode::UNAUTHORIZED, why),
            Err(until) => too_many(until.wait_time_from(DefaultClock::default().now()), "refused tokens from your address"),
        }
    }

    fn count(&self, key: &str) -> Result<(), Problem> {
        if self.requests.len() > BUCKETS_MAX {
            self.requests.retain_recent();
        }
        let key = key.to_owned();
        self.requests
            .check_key(&key)
            .map_err(|until| too_many(until.wait_time_from(DefaultClock::default().now()), "requests from you"))
    }
}

fn too_many(wait: Duration, what: &str) -> Problem {
    let seconds = wait.as_secs() + 1;
    let mut problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, format!("too many {what}: wait {seconds} s"));
    problem.retry_after = Some(seconds);
    problem
}

/// Whether a request without a token is this machine's own: asked for by a loopback name (a page elsewhere may have made its own name
/// point here), not sent by another site's page, and not passed on by a proxy.
pub(crate) fn is_own_page(headers: &HeaderMap) -> bool {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let loopback = |host: &str| {
        let name =
            host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map_or(host, |(name, _)| name);
        matches!(name, "localhost" | "127.0.0.1" | "[::1]")
    };
    let origin = match text(header::ORIGIN) {
        Some(origin) => origin.split_once("://").map(|(_, host)| host) == text(header::HOST),
        None => true,
    };
    let site = headers.get("sec-fetch-site").is_none_or(|site| site == "same-origin" || site == "none");
    let passed_on =
        headers.contains_key("forwarded") || headers.contains_key("x-forwarded-for") || headers.contains_key(header::VIA);
    text(header::HOST).is_some_and(loopback) && origin && site && !passed_on
}

/// Every request goes through here.
pub(crate) async fn pass(State(gate): State<Arc<Gate>>, mut request: Request, next: Next) -> Response {
    let is_address = matches!(gate.door, Door::Address { .. });
    let secure = request.extensions().get::<crate::http::Secure>().is_some();
    let answered = match enter(&gate, &mut request) {
        Err(problem) => Err(problem),
        Ok((access, who)) => match access.filter(|access| access.change).zip(who) {
            Some((access, who)) => change(Arc::clone(&gate), access, who, request, next).await,
            None => Ok(next.run(request).await),
        },
    };
    let mut response = answered.unwrap_or_else(IntoResponse::into_response);
    if is_address {
        protect(response.headers_mut(), secure);
    }
    response
}

fn enter(gate: &Gate, request: &mut Request) -> Result<(Option<&'static Access>, Option<Who>), Problem> {
    let path = request.extensions().get::<MatchedPath>();
    let access = path.and_then(|path| access::find(request.method().as_str(), path.as_str()));
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    if access.is_some_and(|access| access.role.is_none()) {
        if let Some(peer) = peer {
            gate.count(&network(peer.ip()).to_string())?;
        }
        return Ok((access, None));
    }
    let who = gate.identify(peer, request.headers())?;
    if matches!(gate.door, Door::Address { .. }) {
        gate.count(&who.id)?;
    }
    // Also for what is not there: only who is known is told so.
    let needed = access.and_then(|access| access.role).unwrap_or(Role::Viewer);
    if who.role < needed {
        if access.is_some_and(|access| access.change) {
            let (method, path) = (request.method().clone(), request.uri().to_string());
            note(gate, &who, peer, &method, &path, None, StatusCode::FORBIDDEN, None);
        }
        let text = if who.unproven {
            format!(
                "this needs the role {needed}; who comes from this machine without a token, while none was ever made, is {}: `aether token \
                 make NAME --role {needed}` makes one, or use the node's socket as the `aether` command does",
                who.role
            )
        } else {
            format!("this needs the role {needed}, your token's is {}", who.role)
        };
        return Err(Problem::new(StatusCode::FORBIDDEN, text));
    }
    request.extensions_mut().insert(who.clone());
    Ok((access, Some(who)))
}

async fn change(gate: Arc<Gate>, access: &'static Access, who: Who, request: Request, next: Next) -> Result<Response, Problem> {
    let most = if access.path == "/v1/publish" || who.id == "socket" { PUBLISH_MAX } else { BODY_MAX };
    let (parts, body) = request.into_parts();
    let read = tokio::time::timeout(BODY_TIME, to_bytes(body, most)).await;
    let read = read.map_err(|_| Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"))?;
    let given = read.map_err(|_| Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a body has at most {most} bytes here")))?;
    gate.audit.check().map_err(|error| {
        tracing::error!(%error, "changes are refused: the audit log cannot be written");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "not done: the audit log cannot be written, see the node's own log")
    })?;
    let task = tokio::spawn(async move {
        let peer = parts.extensions.get::<Peer>().map(|peer| peer.0);
        let (method, path) = (parts.method.clone(), parts.uri.to_string());
        let response = next.run(Request::from_parts(parts, Body::from(given.clone()))).await;
        let (head, body) = response.into_parts();
        let answer = to_bytes(body, ANSWER_MAX).await.unwrap_or_default();
        let (status, told) = (head.status, answer.clone());
        let written =
            tokio::task::spawn_blocking(move || note(&gate, &who, peer, &method, &path, Some(&given), status, Some(&told)));
        let _ = written.await;
        Response::from_parts(head, Body::from(answer))
    });
    task.await.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error))
}

#[allow(clippy::too_many_arguments, reason = "the fields of a line, from two places")]
fn note(
    gate: &Gate,
    who: &Who,
    peer: Option<SocketAddr>,
    method: &Method,
    path: &str,
    given: Option<&Bytes>,
    status: StatusCode,
    answer: Option<&Bytes>,
) {
    let brief = |bytes: Option<&Bytes>| bytes.and_then(|bytes| audit::brief(bytes));
    let record = Record {
        time: audit::now(),
        who: &who.id,
        name: &who.name,
        role: who.role,
        from: peer.map(|peer| peer.to_string()),
        method: method.as_str(),
        path,
        given: brief(given),
        status: status.as_u16(),
        answer: brief(answer),
    };
    if let Err(error) = gate.audit.write(&record) {
        tracing::error!(%error, who = who.id, path, "a change could not be written to the audit log");
    }
}

/// The dashboard loads nothing from elsewhere, nobody frames it, and no answer is kept by a proxy.
pub(crate) fn protect(headers: &mut HeaderMap, secure: bool) {
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                          base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let fixed = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if secure {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{TokenFile, tokens_path};

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn gate(dir: &std::path::Path, require_token: bool) -> Gate {
        let door = Door::Address { tokens: TokenStore::new(tokens_path(dir)), require_token };
        Gate::new(door, Audit::new(dir.join("audit.jsonl")))
    }

    fn peer(text: &str) -> Option<SocketAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn before_a_token_is_made_this_machine_may_operate_unless_told_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let own = headers(&[("host", "127.0.0.1:7900")]);
        let who = gate(dir.path(), false).identify(peer("127.0.0.1:5"), &own).unwrap();
        assert!(who.unproven && who.role == Role::Operator);
        assert_eq!(gate(dir.path(), true).identify(peer("127.0.0.1:5"), &own).unwrap_err().status, 401);
        assert_eq!(gate(dir.path(), false).identify(peer("192.0.2.1:5"), &own).unwrap_err().status, 401);
        let gate = gate(dir.path(), false);
        TokenFile::new(tokens_path(dir.path())).make("me", Role::Viewer, None).unwrap();
        assert_eq!(gate.identify(peer("127.0.0.1:5"), &own).unwrap_err().status, 401);
        assert!(!gate.may_stay(&who));
    }

    #[test]
    fn another_sites_page_is_not_this_machine() {
        let good = [
            &[("host", "localhost:7900")][..],
            &[("host", "[::1]:7900"), ("origin", "http://[::1]:7900"), ("sec-fetch-site", "same-origin")],
        ];
        let bad = [
            &[][..],
            &[("host", "evil.example:7900")],
            &[("host", "localhost:7900"), ("origin", "http://evil.example")],
            &[("host", "localhost:7900"), ("origin", "null")],
            &[("host", "localhost:7900"), ("sec-fetch-site", "cross-site")],
            &[("host", "localhost:7900"), ("x-forwarded-for", "192.0.2.1")],
        ];
        assert!(good.iter().all(|list| is_own_page(&headers(list))));
        assert!(bad.iter().all(|list| !is_own_page(&headers(list))));
    }

    #[test]
    fn who_guesses_is_told_to_wait_and_who_has_a_token_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let text = TokenFile::new(tokens_path(dir.path())).make("me", Role::Viewer, None).unwrap().1;
        let gate = gate(dir.path(), false);
        let wrong = headers(&[("authorization", "Bearer aether_00_x")]);
        let statuses: Vec<_> = (0..30).map(|_| gate.identify(peer("192.0.2.1:5"), &wrong).unwrap_err().status).collect();
        assert_eq!((statuses[0], statuses[29]), (401, 429));
        assert_eq!(gate.identify(peer("192.0.2.2:5"), &wrong).unwrap_err().status, 401);
        let right = headers(&[("authorization", &format!("bearer {text}"))]);
        assert_eq!(gate.identify(peer("192.0.2.1:5"), &right).unwrap().name, "me");
    }

    #[test]
    fn one_token_does_not_use_up_what_another_may() {
        let dir = tempfile::tempdir().unwrap();
        let gate = gate(dir.path(), false);
        let refused = (0..1_000).filter(|_| gate.count("a").is_err()).count();
        assert!(refused > 0 && gate.count("b").is_ok());
    }
}
