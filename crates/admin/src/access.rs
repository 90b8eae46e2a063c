//! Who may do what: one table, used by the check at the door, by the OpenAPI document and by `aether token roles`.
//!
//! A role may do what the roles before it may. Start with [`ACCESS`]. Not here: who somebody is (`token`), what is asked (`api`).

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use utoipa::ToSchema;

/// What a token is for; each may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sees everything, changes nothing. For dashboards on walls and for Prometheus.
    Viewer,
    /// Changes what runs and where, with the versions that are there.
    Operator,
    /// Brings new code into the cluster. For authors and their CI.
    Publisher,
}

impl Role {
    /// All, the least first.
    pub const ALL: [Role; 3] = [Role::Viewer, Role::Operator, Role::Publisher];

    /// Its name in the token file, the CLI and the API.
    pub fn name(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Publisher => "publisher",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Role {
    type Err = String;
    fn from_str(text: &str) -> Result<Role, String> {
        Role::ALL
            .into_iter()
            .find(|role| role.name() == text)
            .ok_or_else(|| format!("{text:?} is no role: viewer, operator, publisher"))
    }
}

/// A line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// The HTTP method.
    pub method: &'static str,
    /// The path as the routes and the OpenAPI document have it.
    pub path: &'static str,
    /// The least role; `None`: anybody, without a token.
    pub role: Option<Role>,
    /// Whether it changes something, and goes into the audit log.
    pub change: bool,
}

const fn open(path: &'static str) -> Access {
    Access { method: "GET", path, role: None, change: false }
}

const fn see(path: &'static str) -> Access {
    Access { method: "GET", path, role: Some(Role::Viewer), change: false }
}

const fn act(role: Role, path: &'static str) -> Access {
    Access { method: "POST", path, role: Some(role), change: true }
}

use Role::{Operator, Publisher};

/// Everything that can be asked over HTTP. What is not here is nobody's, which a test compares with the routes.
pub const ACCESS: &[Access] = &[
    // Whether the process lives and its worlds tick: for supervisors and load balancers, which have no token.
    open("/healthz"),
    open("/readyz"),
    // The dashboard's files, the same on every node: they know nothing until a token is given to them.
    open("/"),
    open("/dashboard/{file}"),
    see("/openapi.json"),
    see("/metrics"),
    see("/v1/me"),
    see("/v1/status"),
    see("/v1/stream"),
    see("/v1/events"),
    see("/v1/nodes"),
    see("/v1/cluster"),
    see("/v1/placement/plan"),
    see("/v1/worlds"),
    see("/v1/worlds/{world}"),
    see("/v1/worlds/{world}/stream"),
    see("/v1/worlds/{world}/history"),
    see("/v1/worlds/{world}/entities"),
    see("/v1/worlds/{world}/flight"),
    see("/v1/worlds/{world}/limits"),
    see("/v1/limits"),
    see("/v1/worlds/{world}/checkpoints"),
    see("/v1/worlds/{world}/set-aside"),
    see("/v1/scripts"),
    see("/v1/versions"),
    see("/v1/reloads"),
    act(Operator, "/v1/nodes/{node}/drain"),
    act(Operator, "/v1/nodes/{node}/undrain"),
    act(Operator, "/v1/worlds/{world}/move"),
    act(Operator, "/v1/worlds/{world}/unpin"),
    act(Operator, "/v1/worlds/{world}/resume"),
    act(Operator, "/v1/worlds/{world}/restore"),
    act(Operator, "/v1/worlds/{world}/checkpoints"),
    act(Operator, "/v1/worlds/{world}/scripts/{script}/suspend"),
    act(Operator, "/v1/worlds/{world}/scripts/{script}/resume"),
    // Versions that were published before: no new code.
    act(Operator, "/v1/scripts/{script}/rollback"),
    act(Operator, "/v1/scripts/{script}/versions/{version}/pin"),
    act(Operator, "/v1/collect"),
    // Also with `?plan=true`, which compiles what it is given and runs it on copies of the worlds' states.
    act(Publisher, "/v1/publish"),
];

/// The line of a method and a route's path.
pub fn find(method: &str, path: &str) -> Option<&'static Access> {
    let method = if method == "HEAD" { "GET" } else { method };
    ACCESS.iter().find(|access| access.method == method && access.path == path)
}

/// The table for people.
pub fn table() -> String {
    let mut text = String::from("needs      request\n");
    for access in ACCESS {
        let role = access.role.map_or("nothing", Role::name);
        text += &format!("{role:<10} {:<4} {}\n", access.method, access.path);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_may_do_what_those_before_it_may() {
        assert!(Role::Viewer < Role::Operator && Role::Operator < Role::Publisher);
    }

    #[test]
    fn only_health_and_the_dashboards_files_need_no_token() {
        let open: Vec<_> = ACCESS.iter().filter(|access| access.role.is_none()).map(|access| access.path).collect();
        assert_eq!(open, ["/healthz", "/readyz", "/", "/dashboard/{file}"]);
    }

    #[test]
    fn a_viewer_changes_nothing_and_only_a_publisher_brings_code() {
        for access in ACCESS {
            assert_eq!(access.change, access.method != "GET", "{access:?}");
            assert!(!access.change || access.role >= Some(Role::Operator), "{access:?}");
            assert_eq!(access.role == Some(Role::Publisher), access.path == "/v1/publish", "{access:?}");
        }
    }

    #[test]
    fn no_request_has_two_lines() {
        for (i, a) in ACCESS.iter().enumerate() {
            assert!(ACCESS[i + 1..].iter().all(|b| (a.method, a.path) != (b.method, b.path)), "{a:?}");
        }
        assert_eq!(find("HEAD", "/metrics"), find("GET", "/metrics"));
        assert_eq!(find("POST", "/metrics"), None);
    }
}
