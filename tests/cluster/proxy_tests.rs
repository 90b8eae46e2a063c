//! The proxy does what it says.

use super::proxy::{Mode, Proxy};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// A server that answers every byte with itself and tells what it read, connection by connection.
fn echo() -> (u16, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (told, heard) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, told) = (stream.unwrap(), told.clone());
            thread::spawn(move || {
                let (mut all, mut buffer) = (Vec::new(), [0; 100]);
                while let Ok(read) = stream.read(&mut buffer) {
                    if read == 0 {
                        break;
                    }
                    all.extend_from_slice(&buffer[..read]);
                    let _ = stream.write_all(&buffer[..read]);
                }
                let _ = told.send(all);
            });
        }
    });
    (port, heard)
}

fn proxy() -> (Proxy, Receiver<Vec<u8>>) {
    let (port, heard) = echo();
    (Proxy::before(port, Box::new(|_, _| Some("me".to_owned()))), heard)
}

fn dial(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

fn exchange(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).unwrap();
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, text);
}

/// Nothing comes, and the connection is there.
fn assert_silent(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let error = stream.read(&mut [0]).unwrap_err();
    assert!([ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()), "{error}");
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
}

#[test]
fn what_is_cut_is_reset_and_can_be_dialled_again_when_it_is_healed() {
    let (proxy, _heard) = proxy();
    let mut stream = dial(&proxy);
    exchange(&mut stream, b"hello");
    proxy.set("me", Mode::Cut);
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let refused = TcpStream::connect(("127.0.0.1", proxy.port)).and_then(|mut stream| stream.read(&mut [0]));
    assert!(refused.is_err(), "{refused:?}");
    proxy.heal();
    exchange(&mut dial(&proxy), b"again");
}

#[test]
fn bytes_that_are_held_arrive_late_also_when_their_sender_has_gone() {
    let (proxy, heard) = proxy();
    let mut stream = dial(&proxy);
    exchange(&mut stream, b"before");
    proxy.set_all(Mode::HOLD);
    stream.write_all(b" after").unwrap();
    assert_silent(&mut stream);
    drop(stream);
    proxy.set("someone else", Mode::Cut);
    proxy.set_all(Mode::Pass);
    assert_eq!(heard.recv_timeout(Duration::from_secs(20)).unwrap(), b"before after");
}

#[test]
fn one_direction_can_be_held_and_what_is_held_can_be_lost() {
    let (proxy, heard) = proxy();
    let mut stream = dial(&proxy);
    exchange(&mut stream, b"a");
    proxy.set("me", Mode::Hold { up: false, down: true });
    stream.write_all(b"b").unwrap();
    assert_silent(&mut stream);
    proxy.set("me", Mode::Cut);
    assert!(stream.read(&mut [0]).is_err());
    // It went up, its answer was lost.
    assert_eq!(heard.recv_timeout(Duration::from_secs(20)).unwrap(), b"ab");
}

#[test]
fn a_slow_way_is_slow_in_each_direction() {
    let (proxy, _heard) = proxy();
    let mut stream = dial(&proxy);
    proxy.set_all(Mode::Slow(Duration::from_millis(60)));
    let begin = Instant::now();
    exchange(&mut stream, b"slow");
    assert!(begin.elapsed() >= Duration::from_millis(120));
}
