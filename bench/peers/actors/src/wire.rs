//! Frames of 20 bytes over loopback TCP below TLS 1.3, there and back: the least that a call between two nodes can cost.
//!
//! The certificate is made at the start and trusted by the client; both sides prove themselves, as a cluster's nodes do. Two threads with a runtime each stand for the
//! two processes.

use crate::{micros, say_calls};
use peer_common::emit;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const FRAME: usize = 20;
const IN_FLIGHT: usize = 64;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn serve(config: ServerConfig, ready: Sender<SocketAddr>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    ready.send(listener.local_addr().unwrap()).unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap();
    let mut buffer = vec![0; 64 << 10];
    // What has come goes back, as it came: the client counts frames.
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        stream.write_all(&buffer[..length]).await.unwrap();
        stream.flush().await.unwrap();
    }
}

pub fn run() {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let chain: Vec<CertificateDer<'static>> = vec![cert.der().clone()];
    let key = || PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let roots = Arc::new(roots);
    let clients = WebPkiClientVerifier::builder(Arc::clone(&roots)).build().unwrap();
    let server = ServerConfig::builder().with_client_cert_verifier(clients).with_single_cert(chain.clone(), key()).unwrap();
    let client = ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key()).unwrap();
    let (ready, address) = channel();
    let thread = std::thread::spawn(move || runtime().block_on(serve(server, ready)));
    let address = address.recv().unwrap();
    runtime().block_on(async move {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = TlsConnector::from(Arc::new(client)).connect(name, stream).await.unwrap();
        let (mut frame, mut times) = ([7; FRAME], Vec::new());
        for _ in 0..20_000 {
            let begun = Instant::now();
            stream.write_all(&frame).await.unwrap();
            stream.flush().await.unwrap();
            stream.read_exact(&mut frame).await.unwrap();
            times.push(micros(begun));
        }
        say_calls("tls", "W7n", times);
        let (count, begun) = (300_000, Instant::now());
        let mut buffer = vec![0; IN_FLIGHT * FRAME];
        stream.write_all(&buffer).await.unwrap();
        stream.flush().await.unwrap();
        let (mut sent, mut got, mut rest) = (IN_FLIGHT, 0, 0);
        while got < count {
            let length = rest + stream.read(&mut buffer).await.unwrap();
            let frames = length / FRAME;
            rest = length % FRAME;
            got += frames;
            let more = frames.min(count - sent);
            if more > 0 {
                stream.write_all(&[7; IN_FLIGHT * FRAME][..more * FRAME]).await.unwrap();
                stream.flush().await.unwrap();
                sent += more;
            }
        }
        emit("W7n", "tls", IN_FLIGHT, "calls_per_s", 1e6 * count as f64 / micros(begun));
    });
    thread.join().unwrap();
}
