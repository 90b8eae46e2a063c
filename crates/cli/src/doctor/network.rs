//! Ports, certificates, and the other nodes: whether they answer, and what their clocks say.

use super::{Finding, bad, good, warn};
use aether_admin::check_certificate;
use aether_cluster::{ClusterSection, MemberSpec, NodeConfig, pki};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// For another node to answer.
const PEER_TIME: Duration = Duration::from_secs(2);
/// Clocks further apart confuse who reads the logs of two machines. HTTP tells whole seconds.
const CLOCK: Duration = Duration::from_secs(3);
/// A certificate of the admin address that is to be renewed.
const RENEW: Duration = Duration::from_secs(14 * 86_400);

/// `runs`: this node runs now.
pub(super) fn look(config: &NodeConfig, base: &Path, runs: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(listen) = config.admin.listen {
        findings.push(port("the admin API and dashboard", &listen.to_string(), "admin.listen", runs));
        findings.push(tls("admin", listen, config.admin.tls_cert.as_ref().zip(config.admin.tls_key.as_ref()), base));
    }
    if let Some(listen) = config.gateway.listen {
        findings.push(port("the player gateway", &listen.to_string(), "gateway.listen", runs));
        findings.push(tls("gateway", listen, config.gateway.tls_cert.as_ref().zip(config.gateway.tls_key.as_ref()), base));
    }
    let Some(section) = &config.cluster else {
        findings.push(good("config", "the file has no [cluster] table: one node, with a database of its own"));
        return findings;
    };
    let Some(me) = &section.me else {
        findings.push(warn("port", "whose port and certificates to look at is not known: add --name NODE"));
        return findings;
    };
    findings.push(port("links to other nodes", &me.listen, "listen", runs));
    findings.push(certificates(section, me, &base.join(&section.identity)));
    let tls = config.admin.tls_cert.is_some();
    findings.extend(
        section.node.iter().filter(|other| other.name != me.name).flat_map(|other| peer(other, config.admin.listen, tls)),
    );
    findings
}

/// Whether an address is free.
fn port(what: &str, listen: &str, field: &str, runs: bool) -> Finding {
    let Some(address) = listen.to_socket_addrs().ok().and_then(|mut addresses| addresses.next()) else {
        return bad("port", format!("{listen} is no address of this machine: correct `{field}`"));
    };
    match TcpListener::bind(address) {
        Ok(_) => good("port", format!("{address} is free for {what}")),
        Err(_) if runs => good("port", format!("{address}, for {what}, is taken, as it should be while the node runs")),
        Err(error) => bad(
            "port",
            format!("{address}, for {what}, cannot be listened on ({error}): stop who has it, or choose another `{field}`"),
        ),
    }
}

/// The certificate and key of an address, which the table of this name in the cluster file names.
fn tls(table: &str, listen: SocketAddr, files: Option<(&PathBuf, &PathBuf)>, base: &Path) -> Finding {
    let Some((certificate, key)) = files else {
        return match listen.ip().is_loopback() {
            true => good("certificate", format!("the {table} address is for this machine only: it needs no TLS")),
            false => bad(
                "certificate",
                format!(
                    "{listen} is reached by other machines: set {table}.tls_cert and {table}.tls_key, or listen on 127.0.0.1"
                ),
            ),
        };
    };
    let path = base.join(certificate);
    if let Err(error) = check_certificate(&path, &base.join(key)) {
        return bad("certificate", format!("{error}: correct {table}.tls_cert and {table}.tls_key, which belong together"));
    }
    match pki::expiry(&path) {
        Err(error) => bad("certificate", format!("{error}: correct {table}.tls_cert")),
        Ok(until) => match until.duration_since(SystemTime::now()) {
            Err(_) => bad("certificate", format!("{} has run out: renew it; a running node reads the new one", path.display())),
            Ok(left) if left < RENEW => {
                warn("certificate", format!("{} is good for {} days only: renew it", path.display(), left.as_secs() / 86_400))
            }
            Ok(left) => good("certificate", format!("{} is good for {} days", path.display(), left.as_secs() / 86_400)),
        },
    }
}

fn certificates(section: &ClusterSection, me: &MemberSpec, folder: &Path) -> Finding {
    let again = format!("aether cluster issue {} --ca DIR --out {} --host HOST", me.name, folder.display());
    let info = match pki::check(folder) {
        Ok(info) => info,
        Err(error) => return bad("certificate", format!("{error}: {again}")),
    };
    if info.cluster != section.name || info.node != me.name {
        let (cluster, node) = (&info.cluster, &info.node);
        let text =
            format!("the certificate is of node {node} of cluster {cluster}, not of {} of {}: {again}", me.name, section.name);
        return bad("certificate", text);
    }
    if info.not_before > SystemTime::now() {
        return bad("certificate", format!("the certificate is not good yet: is this machine's clock right? else {again}"));
    }
    match info.not_after.duration_since(SystemTime::now()) {
        Err(_) => bad("certificate", format!("the certificate has run out: {again}")),
        Ok(left) if info.renew => {
            warn("certificate", format!("the certificate is good for {} days only: {again}", left.as_secs() / 86_400))
        }
        Ok(left) => good("certificate", format!("the certificate is good for {} days", left.as_secs() / 86_400)),
    }
}

/// Another node: whether it is there, and what its clock says.
fn peer(other: &MemberSpec, admin: Option<SocketAddr>, tls: bool) -> Vec<Finding> {
    let (name, address) = (&other.name, other.address());
    let Some(resolved) = address.to_socket_addrs().ok().and_then(|mut addresses| addresses.next()) else {
        return vec![bad(
            "peer",
            format!("{address}, of node {name}, is no address that this machine knows: correct it, or the name service"),
        )];
    };
    let begun = std::time::Instant::now();
    if let Err(error) = TcpStream::connect_timeout(&resolved, PEER_TIME) {
        return vec![warn(
            "peer",
            format!("node {name} does not answer at {address} ({error}): start it, or open the way to it if it runs"),
        )];
    }
    let mut findings = vec![good("peer", format!("node {name} answers at {address} in {} ms", begun.elapsed().as_millis()))];
    // Where the admin API speaks TLS nobody here has its authority.
    if let Some(admin) = other.admin.or(admin).filter(|_| !tls) {
        findings.extend(clock(name, admin));
    }
    findings
}

/// The `Date` of another node's answer.
fn date(admin: SocketAddr) -> Option<SystemTime> {
    let mut stream = TcpStream::connect_timeout(&admin, PEER_TIME).ok()?;
    stream.set_read_timeout(Some(PEER_TIME)).ok()?;
    let request = format!("GET /healthz HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let lines = BufReader::new(stream).lines().take(64).map_while(Result::ok).take_while(|line| !line.is_empty());
    let date = lines.filter_map(|line| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned())));
    let date = date.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("date"))?;
    httpdate::parse_http_date(&date.1).ok()
}

fn clock(name: &str, admin: SocketAddr) -> Option<Finding> {
    let (before, theirs) = (SystemTime::now(), date(admin)?);
    let apart = theirs.duration_since(before).or_else(|_| before.duration_since(theirs)).unwrap_or_default();
    Some(if apart > CLOCK {
        warn(
            "clock",
            format!(
                "this machine's clock and that of node {name} are {} s apart: no world depends on it, but logs will not fit together; run NTP on both",
                apart.as_secs()
            ),
        )
    } else {
        good("clock", format!("this machine's clock and that of node {name} agree"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Mark;
    use std::io::Read;

    #[test]
    fn a_port_that_is_taken_is_bad_unless_the_node_has_it() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        assert_eq!(port("x", &address, "listen", false).mark, Mark::Bad);
        assert_eq!(port("x", &address, "listen", true).mark, Mark::Good);
        assert_eq!(port("x", "no such host:1", "listen", false).mark, Mark::Bad);
    }

    #[test]
    fn a_clock_that_is_wrong_is_told_by_the_date_of_an_answer() {
        let told = |date: &'static str| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let answering = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 1_024]).unwrap();
                write!(stream, "HTTP/1.1 200 OK\r\nDate: {date}\r\n\r\n").unwrap();
            });
            let found = clock("b", address);
            answering.join().unwrap();
            found
        };
        assert_eq!(told("Sun, 06 Nov 1994 08:49:37 GMT").unwrap().mark, Mark::Warn);
        let now: &'static str = httpdate::fmt_http_date(SystemTime::now()).leak();
        assert_eq!(told(now).unwrap().mark, Mark::Good);
        assert_eq!(told("yesterday"), None);
    }
}
