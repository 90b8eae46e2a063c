//! The URL of a database: what it names, and whether the way there is encrypted. Nothing of a URL is ever shown but host and database:
//! the rest may be a password, also where it does not belong.
//!
//! `sslmode` is `disable`, or `require`, `verify-ca` or `verify-full`, which all mean the last: encrypted, and the server's certificate
//! is checked with its name (`sslrootcert=FILE`, otherwise the system's authorities). Without `sslmode` only this machine is allowed:
//! `prefer`, the usual default, sends everything in the clear whenever somebody on the way asks for it.

use super::tls::Tls;
use crate::StoreError;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

/// A URL that was understood.
pub(super) struct Target {
    pub config: Config,
    /// `None`: in the clear.
    pub tls: Option<Tls>,
    /// Host and database, for people.
    pub place: PathBuf,
}

/// Understand a URL. The errors hold nothing of it.
pub(super) fn parse(url: &str) -> Result<Target, StoreError> {
    let refuse = |message: &str| StoreError::Database { path: PathBuf::from("postgres"), message: message.to_owned() };
    let malformed = || {
        refuse(
            "its URL is not understood: postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=verify-full is one; \
             write the characters /?#@:% of a password as %2F %3F %23 %40 %3A %25",
        )
    };
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(malformed());
    }
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let (mut mode, mut authorities, mut others) = (None, None, Vec::new());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sslmode", value)) => mode = Some(value),
            Some(("sslrootcert", value)) => authorities = Some(PathBuf::from(decoded(value).ok_or_else(malformed)?)),
            Some(_) => others.push(pair),
            None => return Err(malformed()),
        }
    }
    let base = if others.is_empty() { base.to_owned() } else { format!("{base}?{}", others.join("&")) };
    let mut config = Config::from_str(&base).map_err(|_| malformed())?;
    let encrypted = match mode {
        Some("require" | "verify-ca" | "verify-full") => true,
        Some("disable") => false,
        None if is_local(&config) => false,
        None => {
            return Err(refuse(
                "its URL names another machine and no sslmode: add sslmode=verify-full, or sslmode=disable if the network between is yours alone",
            ));
        }
        Some("prefer" | "allow") => {
            return Err(refuse("sslmode=prefer and allow fall back to plain text unnoticed: choose verify-full or disable"));
        }
        Some(_) => return Err(refuse("its sslmode is none of disable, require, verify-ca and verify-full")),
    };
    config.ssl_mode(if encrypted { SslMode::Require } else { SslMode::Disable });
    let place = place(&config);
    let tls = if encrypted { Some(Tls::new(authorities.as_deref())?) } else { None };
    Ok(Target { config, tls, place })
}

/// Whether it stays on this machine.
fn is_local(config: &Config) -> bool {
    let hosts = config.get_hosts().iter().all(|host| match host {
        Host::Tcp(name) => name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()),
        Host::Unix(_) => true,
    });
    let addresses = config.get_hostaddrs();
    if addresses.is_empty() { hosts } else { addresses.iter().all(IpAddr::is_loopback) }
}

fn place(config: &Config) -> PathBuf {
    let ports = config.get_ports();
    let host = |(i, host): (usize, &Host)| {
        let name = match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        };
        match ports.get(i).or(ports.first()) {
            Some(port) => format!("{name}:{port}"),
            None => name,
        }
    };
    let hosts: Vec<String> = config.get_hosts().iter().enumerate().map(host).collect();
    PathBuf::from(format!("postgres://{}/{}", hosts.join(","), config.get_dbname().unwrap_or_default()))
}

/// `%41` is A.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        (rest, _) = match (first, tail) {
            (b'%', [a, b, tail @ ..]) => {
                let digit = |c: u8| char::from(c).to_digit(16);
                (tail, bytes.push((digit(*a)? * 16 + digit(*b)?) as u8))
            }
            (b'%', _) => return None,
            (other, tail) => (tail, bytes.push(*other)),
        };
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        match parse(url) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("accepted {url}"),
        }
    }

    #[test]
    fn nothing_goes_to_another_machine_in_the_clear_unless_the_url_says_so() {
        for url in
            ["postgres://u:p@db/x", "postgres://db", "postgres://u@localhost,db/x", "postgres://u@localhost/x?hostaddr=10.0.0.1"]
        {
            assert!(refused(url).contains("sslmode=verify-full"), "{url}");
        }
        for mode in ["prefer", "allow", "yes", ""] {
            refused(&format!("postgres://u@localhost/x?sslmode={mode}"));
        }
        for url in [
            "postgres://u@localhost/x",
            "postgresql://u@127.0.0.1:5/x",
            "postgres://u@[::1]/x",
            "postgres://u@db/x?sslmode=disable",
        ] {
            let target = parse(url).unwrap();
            assert!(target.tls.is_none() && target.config.get_ssl_mode() == SslMode::Disable, "{url}");
        }
    }

    #[test]
    fn an_encrypted_connection_falls_back_to_nothing() {
        let authorities = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls/authority.pem");
        for mode in ["require", "verify-ca", "verify-full"] {
            let target = parse(&format!("postgres://u@db/x?sslmode={mode}&sslrootcert={authorities}&connect_timeout=3")).unwrap();
            assert!(target.tls.is_some() && target.config.get_ssl_mode() == SslMode::Require);
            assert_eq!(target.place, PathBuf::from("postgres://db:5432/x"));
        }
        assert!(refused("postgres://u@db/x?sslmode=verify-full&sslrootcert=/nowhere").contains("/nowhere"));
    }

    #[test]
    fn no_error_shows_a_password_however_broken_the_url_is() {
        for url in [
            "postgres://u:secret@db/x",
            "postgres://u:a?secret@db/x",
            "postgres://u:a&secret=1?secret=2@db/x",
            "postgres://u:secret%zz@db/x",
            "postgres://u:secret@db:port/x?sslmode=disable",
            "postgres://u:secret@db/x?sslmode=secret",
            "host=db password=secret",
        ] {
            assert!(!refused(url).contains("secret"), "{url}");
        }
        let target = parse("postgres://user:secret@db:5433/town?sslmode=disable").unwrap();
        assert_eq!(target.place, PathBuf::from("postgres://db:5433/town"));
    }
}
