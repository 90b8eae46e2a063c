//! The cluster's database: whether it answers and how fast, what it is, its clock, and what may lose acknowledged writes.

use super::{Finding, bad, good, warn};
use aether_cluster::{ClusterSection, NodeConfig};
use aether_store::{PostgresOptions, PostgresStore};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Clocks further apart confuse who reads the logs of two machines.
const CLOCK_MS: i64 = 1_000;
/// A commit takes some round trips, and a tick's output waits for it.
const ROUND_TRIP: Duration = Duration::from_millis(20);
/// Versions before it get no fixes any more.
const VERSION_MIN: u32 = 14;
/// For its port to answer.
const PORT_TIME: Duration = Duration::from_secs(3);

pub(super) fn look(config: &NodeConfig) -> Vec<Finding> {
    config.cluster.as_ref().map_or_else(Vec::new, examine)
}

/// `HOST:PORT` of a URL, if it names one host; the store's own reader says what is wrong with a URL.
fn authority(url: &str) -> Option<(String, u16)> {
    let rest = url.split_once("://")?.1;
    let rest = rest.split(['/', '?']).next()?;
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let (host, port) = match host.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (host, 5_432),
    };
    (!host.is_empty() && !host.contains(',')).then(|| (host.trim_matches(['[', ']']).to_owned(), port))
}

/// Why nobody answers there at all: connecting would be tried for half a minute.
fn silent(host: &str, port: u16) -> Option<String> {
    let addresses: Vec<_> = match (host, port).to_socket_addrs() {
        Ok(addresses) => addresses.collect(),
        Err(error) => return Some(format!("{host} is no host that this machine knows ({error})")),
    };
    let mut last = "it has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, PORT_TIME) {
            Ok(_) => return None,
            Err(error) => last = error.to_string(),
        }
    }
    Some(format!("nobody answers at {host}:{port} ({last})"))
}

fn examine(section: &ClusterSection) -> Vec<Finding> {
    let mend = "start it, or correct `store` (AETHER_CLUSTER__STORE)";
    if let Some(why) = authority(&section.store).and_then(|(host, port)| silent(&host, port)) {
        return vec![bad("database", format!("{why}: {mend}"))];
    }
    let options = PostgresOptions { schema: Some(section.schema.clone()), ..PostgresOptions::default() };
    let examined = PostgresStore::open(&section.store, options).and_then(|store| store.examine());
    let examined = match examined {
        Ok(examined) => examined,
        Err(error) => return vec![bad("database", format!("{error}: {mend}"))],
    };
    let version = examined.version.split(',').next().unwrap_or_default().to_owned();
    let mut findings = vec![if examined.round_trip > ROUND_TRIP {
        let text = format!(
            "{version} takes {} ms to answer: every commit does that some times; bring it nearer",
            examined.round_trip.as_millis()
        );
        warn("database", text)
    } else {
        good("database", format!("{version} answers in {} us", examined.round_trip.as_micros()))
    }];
    findings.push(of_version(&version));
    findings.push(if examined.clock_ahead_ms.abs() > CLOCK_MS {
        warn(
            "clock",
            format!(
                "this machine's clock is {} ms ahead of the database's: no world depends on it, but logs will not fit together; run NTP",
                examined.clock_ahead_ms
            ),
        )
    } else {
        good("clock", "this machine's clock and the database's agree")
    });
    let finding = |(text, mistake): (String, bool)| if mistake { bad("database", text) } else { warn("database", text) };
    findings.extend(examined.findings.into_iter().map(finding));
    findings
}

/// `version`: as `SELECT version()` begins.
fn of_version(version: &str) -> Finding {
    let number = version.strip_prefix("PostgreSQL ").and_then(|rest| rest.split(['.', ' ']).next()?.parse::<u32>().ok());
    match number {
        Some(number) if number < VERSION_MIN => {
            warn("database", format!("PostgreSQL {number} gets no fixes any more: use {VERSION_MIN} or newer"))
        }
        Some(number) => good("database", format!("PostgreSQL {number} is new enough")),
        None => warn("database", format!("{version} is no PostgreSQL: its SQL is spoken, but nobody ran it with this")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Mark;

    #[test]
    fn where_a_database_is_stands_in_its_url() {
        let at = |url: &str| authority(url);
        assert_eq!(at("postgres://a:p%40w@db.example:7/x?y=z"), Some(("db.example".into(), 7)));
        assert_eq!(at("postgres://a@[::1]:7400/x"), Some(("::1".into(), 7_400)));
        assert_eq!(at("postgresql://db"), Some(("db".into(), 5_432)));
        assert_eq!((at("postgres://a@h1:1,h2:2/x"), at("nonsense")), (None, None));
    }

    #[test]
    fn an_old_database_and_another_one_are_told() {
        let mark = |version| of_version(version).mark;
        let marks = [mark("PostgreSQL 17.2 (Debian)"), mark("PostgreSQL 12.4 on x86"), mark("CockroachDB CCL v24")];
        assert_eq!(marks, [Mark::Good, Mark::Warn, Mark::Warn]);
    }
}
