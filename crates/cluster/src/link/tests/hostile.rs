//! What others do with a node: strangers, impostors, silence, garbage, floods.

use std::{path::Path, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Runtime,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
        version::TLS13,
    },
};

use super::{
    super::{
        cut::Cut,
        hello::{self, Failed, Introduction},
        pki,
    },
    Cluster, Node, PATIENCE,
};

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Someone with the certificate in `dir`, after the TLS handshake. With TLS 1.3 that says nothing yet.
async fn connect(to: &str, dir: &Path, trust: &Path) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    CertificateDer::pem_file_iter(trust.join("ca.pem")).unwrap().for_each(|ca| roots.add(ca.unwrap()).unwrap());
    let chain = CertificateDer::pem_file_iter(dir.join("node.pem")).map(|list| list.map(Result::unwrap).collect::<Vec<_>>());
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let config = match chain {
        Ok(chain) => builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(dir.join("node.key")).unwrap()).unwrap(),
        Err(_) => builder.with_no_client_auth(),
    };
    let tcp = TcpStream::connect(to).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(pki::LINK_DNS).unwrap(), tcp).await
}

fn introduction(cluster: &str, node: &str) -> Introduction {
    let (cluster, node) = (cluster.into(), node.into());
    Introduction { cluster, node, token: 1, window_bytes: 8 << 20, window_messages: 1000, payload_bytes_max: 1 << 20 }
}

/// The whole way to ractor's handshake.
async fn greet(to: &str, dir: &Path, as_: (&str, &str)) -> Result<TlsStream<TcpStream>, Failed> {
    let mut tls = timeout(PATIENCE, connect(to, dir, dir)).await.unwrap()?;
    let talk = async {
        hello::introduce(&mut tls, &introduction(as_.0, as_.1)).await?;
        hello::agree(&mut tls, Ok(())).await
    };
    timeout(PATIENCE, talk).await.unwrap()?;
    Ok(tls)
}

/// Wait until the other side has closed.
async fn closed(tls: &mut TlsStream<TcpStream>) {
    let mut bytes = Vec::new();
    let _ = timeout(PATIENCE, tls.read_to_end(&mut bytes)).await.expect("still open");
}

/// A certificate that `pki` would not make.
fn forge(cluster: &Cluster, out: &str, uri: &str, expired: bool) {
    let read = |path: &str| std::fs::read_to_string(cluster.path(path)).unwrap();
    let key = rcgen::KeyPair::from_pem(&read("ca/ca.key")).unwrap();
    let ca = CertificateDer::from_pem_slice(read("ca/ca.pem").as_bytes()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_der(&ca, key).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names =
        vec![rcgen::SanType::URI(uri.try_into().unwrap()), rcgen::SanType::DnsName(pki::LINK_DNS.try_into().unwrap())];
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(if expired { 2021 } else { 2090 }, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    std::fs::create_dir_all(cluster.path(out)).unwrap();
    for (name, text) in [("node.pem", certificate.pem()), ("node.key", key.serialize_pem()), ("ca.pem", read("ca/ca.pem"))] {
        std::fs::write(cluster.path(out).join(name), text).unwrap();
    }
}

#[test]
fn strangers_are_refused_and_counted() {
    let cluster = Cluster::new(&["b", "c", "m"]);
    pki::init_ca(&cluster.path("other"), "test").unwrap();
    cluster.issue("other", "a");
    let mut m = cluster.start("m");
    m.tell("peers b=127.0.0.1:1");
    let refused = |dir: &str| {
        runtime().block_on(async {
            // Whether the handshake seems to succeed or not: nothing can be read.
            if let Ok(mut tls) = connect(&m.address, &cluster.path(dir), &cluster.path("m")).await {
                let read = timeout(PATIENCE, tls.read_u8()).await.unwrap();
                assert!(read.is_err(), "{dir} was heard");
            }
        });
    };
    refused("a");
    forge(&cluster, "expired", "spiffe://test/node/b", true);
    refused("expired");
    std::fs::create_dir(cluster.path("nobody")).unwrap();
    refused("nobody");
    m.wait_status("strangers", "tls=3");

    let address = m.address.clone();
    let told = |dir: &str, cluster_said: &str, node: &str| {
        runtime().block_on(greet(&address, &cluster.path(dir), (cluster_said, node))).unwrap_err()
    };
    forge(&cluster, "foreign", "spiffe://elsewhere/node/b", false);
    forge(&cluster, "user", "spiffe://test/user/b", false);
    for dir in ["foreign", "user"] {
        let Failed(cut, why) = told(dir, "test", "b");
        assert_eq!((cut, why.as_str()), (Cut::Refused, "it says: the certificate names no node of this cluster"));
    }
    let Failed(_, why) = told("c", "test", "b");
    assert_eq!(why, "it says: the node calls itself other than its certificate does");
    let Failed(_, why) = told("c", "test", "c");
    assert_eq!(why, "it says: the node is not listed");
    m.wait_status("strangers", "identity=2 wrong_name=1 not_listed=1");
    let Failed(_, why) = told("b", "elsewhere", "b");
    assert_eq!(why, "it says: the certificate names no node of this cluster");
    m.wait_status("b", "identity=1");
    m.tell("peers z=127.0.0.1:1 b=127.0.0.1:1");
    cluster.issue("ca", "z");
    let Failed(_, why) = told("z", "test", "z");
    assert_eq!(why, "it says: only the node with the smaller name dials");
}

#[test]
fn a_node_that_answers_at_the_address_of_another_is_refused() {
    let cluster = Cluster::new(&["a", "b", "c"]);
    let (mut a, mut c) = (cluster.start("a"), cluster.start("c"));
    c.knows(&[&a]);
    a.tell(&format!("peers b={}", c.address));
    let why = a.wait("refused b wrong_name").join(" ");
    assert!(why.contains("other than its certificate"), "{why}");
}

#[test]
fn silent_connections_do_not_keep_others_from_joining() {
    let cluster = Cluster::new(&["a", "b"]);
    let (mut a, mut b) = (cluster.start("a"), cluster.start("b"));
    b.knows(&[&a]);
    let silent: Vec<_> = (0..100).map(|_| std::net::TcpStream::connect(&b.address).unwrap()).collect();
    a.knows(&[&b]);
    a.wait("up b");
    let crowd = b.wait_status("strangers", "crowded=");
    assert!(crowd.starts_with("crowded=8"), "100 silent, 16 allowed, one good: {crowd}");
    b.wait_status("strangers", "handshake_timeout=");
    let mut http = std::net::TcpStream::connect(&b.address).unwrap();
    std::io::Write::write_all(&mut http, b"GET / HTTP/1.1\r\n\r\n").unwrap();
    b.wait_status("strangers", " tls=1");
    drop(silent);
}

#[test]
fn garbage_before_the_session_is_authenticated_is_cut_off() {
    let cluster = Cluster::new(&["a", "b"]);
    let mut b = Node::start("b", &cluster.path("b"), &[("AUTH_MS", "1000")]);
    b.tell("peers a=127.0.0.1:1");
    let dir = cluster.path("a");
    runtime().block_on(async {
        for (bytes, why) in [
            (vec![0xff; 64], "frame_too_long=1"),
            ([&[0, 0, 0, 0, 0, 0, 0, 9][..], &[0x77; 9]].concat(), "garbage=1"),
            // Someone else's name: tag and length of auth, name, name.
            ([&[0, 0, 0, 0, 0, 0, 0, 9, 0x0a, 7, 0x0a, 5, 0x0a, 3][..], b"z@z"].concat(), "wrong_name=1"),
            // Half a frame, then nothing.
            (vec![0, 0, 0, 0, 0, 0, 0, 100, 1, 2, 3], "auth_timeout=1"),
        ] {
            let mut tls = greet(&b.address, &dir, ("test", "a")).await.unwrap();
            tls.write_all(&bytes).await.unwrap();
            tls.flush().await.unwrap();
            closed(&mut tls).await;
            b.wait_status("a", why);
        }
        // A hello that is none, one of another kind of program, and one that never comes to an end.
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"AELK\x01\x01\x00\xff\xff"] {
            let mut tls = connect(&b.address, &dir, &dir).await.unwrap();
            tls.write_all(bytes).await.unwrap();
            tls.flush().await.unwrap();
            closed(&mut tls).await;
        }
        b.wait_status("a", "bad_hello=2");
        let mut tls = connect(&b.address, &dir, &dir).await.unwrap();
        closed(&mut tls).await;
        b.wait_status("a", "handshake_timeout=1");
    });
}

#[test]
fn garbage_on_a_link_is_cut_off_and_the_link_comes_back() {
    let cluster = Cluster::new(&["a", "b"]);
    let (mut a, mut b) = cluster.pair();
    // An endless length; random bytes where a frame should be; a cast to another actor; an empty frame.
    for (bytes, why) in [
        ("ffffffffffffffff", "frame over the limit"),
        ("0000000000000007deadbeefdeadbe", "not part of the protocol"),
        ("000000000000000812060a0408631200", "not part of the protocol"),
        ("0000000000000000", "not part of the protocol"),
    ] {
        a.tell(&format!("inject {bytes}"));
        let down = b.wait("down a").join(" ");
        assert!(down.contains(why), "{bytes}: {down}");
        a.wait("down b");
        a.wait("up b");
        b.wait("up a");
    }
    // Half a frame: what follows is taken for its end, and no whole frame comes within the idle limit.
    a.tell("inject 00000000000f0000");
    let down = b.wait("down a").join(" ");
    assert!(down.contains("sent nothing for too long") || down.contains("not part"), "{down}");
    a.wait("up b");
}

#[test]
fn a_peer_that_sends_without_credit_is_cut_off() {
    let cluster = Cluster::new(&["a", "b"]);
    let (mut a, mut b) = cluster.pair();
    let before = b.memory();
    b.tell("slow 10");
    b.wait_status("a", "up=true");
    a.tell("cheat");
    a.tell("fill b 1000");
    assert!(b.wait("down a").join(" ").contains("more than it had credit for"));
    assert!(b.memory() < before + 128, "{} MiB before, {} after", before, b.memory());
    b.wait_status("a", "overrun=");
}

#[test]
fn a_second_connection_of_a_node_replaces_the_first() {
    let cluster = Cluster::new(&["a", "b"]);
    let (mut a, mut b) = cluster.pair();
    let second = runtime();
    let tls = second.block_on(greet(&b.address, &cluster.path("a"), ("test", "a"))).unwrap();
    assert!(b.wait("down a").join(" ").contains("a newer connection of the same node took over"));
    a.wait("down b");
    // The node itself comes back and replaces the second, which never said anything more.
    a.wait("up b");
    b.wait("up a");
    assert!(b.wait_status("a", "up=true ups=2").contains("replaced=2"));
    drop(tls);
    a.tell("send b 10 10");
    b.wait("last a");
}

#[test]
fn ractors_own_listener_lets_nobody_in() {
    let cluster = Cluster::new(&["a", "b"]);
    let (a, _b) = cluster.pair();
    // Listening sockets of that process: the links' own, and ractor's.
    let ports = {
        let inodes: Vec<String> = std::fs::read_dir(format!("/proc/{}/fd", a.child.id()))
            .unwrap()
            .filter_map(|fd| {
                Some(std::fs::read_link(fd.ok()?.path()).ok()?.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').into())
            })
            .collect();
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let ports: Vec<u16> = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|row| row.get(3) == Some(&"0A") && inodes.iter().any(|inode| inode == row[9]))
            .map(|row| {
                assert!(row[1].starts_with("0100007F:"), "not on loopback: {}", row[1]);
                u16::from_str_radix(&row[1][9..], 16).unwrap()
            })
            .collect();
        ports
    };
    assert_eq!(ports.len(), 2);
    for port in ports.into_iter().filter(|port| !a.address.ends_with(&format!(":{port}"))) {
        let (address, dir) = (format!("127.0.0.1:{port}"), cluster.path("b"));
        let refused = runtime().block_on(async { timeout(PATIENCE, connect(&address, &dir, &dir)).await });
        assert!(refused.unwrap().is_err());
    }
}
