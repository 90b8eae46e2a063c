//! What nodes of ours do with each other.

use rustix::process::Signal;

use super::{super::pki, Cluster, Node};

#[test]
fn ten_thousand_messages_arrive_in_order_both_ways() {
    let cluster = Cluster::new(&["a", "b"]);
    let (mut a, mut b) = cluster.pair();
    a.tell("send b 10000 100");
    b.tell("send a 10000 3000");
    assert_eq!(b.wait("last a"), ["10000"]);
    assert_eq!(a.wait("last b"), ["10000"]);
    a.tell("send b 200 1048576");
    assert_eq!(b.wait("last a"), ["10200"], "the largest payload, two hundred times");
    a.wait_status("b", " flying=0 ");
    assert!(!a.seen.iter().chain(&b.seen).any(|line| line.starts_with("disorder")), "{:?} {:?}", a.seen, b.seen);
    a.tell("again");
    a.wait("again this process has links already: stop those first");
}

#[test]
fn three_nodes_keep_apart_who_said_what() {
    let cluster = Cluster::new(&["a", "b", "c"]);
    let mut nodes = ["a", "b", "c"].map(|name| cluster.start(name));
    let list: Vec<_> =
        nodes.iter().map(|node| format!("{}={}", node.name, node.address.replace("127.0.0.1", "localhost"))).collect();
    nodes.iter_mut().for_each(|node| node.tell(&format!("peers {}", list.join(" "))));
    for node in &mut nodes {
        node.wait("up");
        node.wait("up");
    }
    let counts = [("a", "b", 300), ("a", "c", 400), ("b", "a", 500), ("b", "c", 600), ("c", "a", 700), ("c", "b", 800)];
    for (from, to, count) in counts {
        nodes.iter_mut().find(|node| node.name == from).unwrap().tell(&format!("send {to} {count} 2000"));
    }
    for node in &mut nodes {
        let mut got = [node.wait("last"), node.wait("last")];
        got.sort();
        let mut wanted: Vec<_> =
            counts.iter().filter(|row| row.1 == node.name).map(|row| vec![row.0.to_owned(), row.2.to_string()]).collect();
        wanted.sort();
        assert_eq!(got.to_vec(), wanted);
    }
}

#[test]
fn a_payload_over_the_limit_or_to_nobody_is_refused() {
    let cluster = Cluster::new(&["a", "b"]);
    let (mut a, _b) = cluster.pair();
    a.tell("send b 1 1048577");
    a.wait("unsent b 0 1048577 bytes are over the limit");
    a.tell("send c 1 10");
    a.wait("unsent c 0 not linked");
}

#[test]
fn a_killed_peer_is_down_at_once_and_up_again_when_it_is_back() {
    let cluster = Cluster::new(&["a", "b"]);
    let (mut a, mut b) = cluster.pair();
    let port = b.address.rsplit_once(':').unwrap().1.to_owned();
    b.signal(Signal::KILL);
    a.wait("down b");
    drop(b);
    b = Node::start("b", &cluster.path("b"), &[("PORT", &port)]);
    b.knows(&[&a]);
    a.wait("up b");
    b.wait("up a");
    b.tell("send a 10 10");
    a.wait("last b");
    // The side that is dialled dies: the other way round.
    let (port, address) = (a.address.rsplit_once(':').unwrap().1.to_owned(), a.address.clone());
    a.signal(Signal::KILL);
    b.wait("down a");
    drop(a);
    a = Node::start("a", &cluster.path("a"), &[("PORT", &port)]);
    assert_eq!(a.address, address);
    a.knows(&[&b]);
    b.wait("up a");
}

#[test]
fn a_frozen_peer_is_full_then_down_and_up_again_when_it_thaws() {
    let cluster = Cluster::new(&["a", "b"]);
    let (mut a, mut b) = cluster.pair();
    let before = a.memory();
    b.signal(Signal::STOP);
    a.tell("fill b 10000");
    let filled = a.wait("filled b");
    let in_flight: u64 = filled[1].parse().unwrap();
    assert!((7 << 20..=8 << 20).contains(&in_flight), "{filled:?}");
    assert!(a.memory() < before + 64, "{} MiB before, {} after", before, a.memory());
    let down = a.wait("down b");
    assert!(down.join(" ").contains("took nothing for too long"), "{down:?}");
    b.signal(Signal::CONT);
    a.wait("up b");
    b.wait("down a");
    b.wait("up a");
    a.tell("send b 5 10");
    b.wait("last a");
}

#[test]
fn an_idle_frozen_peer_is_down_after_the_idle_limit() {
    let cluster = Cluster::new(&["a", "b"]);
    let (mut a, b) = cluster.pair();
    b.signal(Signal::STOP);
    let down = a.wait("down b");
    assert!(down.join(" ").contains("sent nothing for too long"), "{down:?}");
    b.signal(Signal::CONT);
    a.wait("up b");
}

#[test]
fn a_slow_reader_stays_linked_and_its_sender_is_refused() {
    let cluster = Cluster::new(&["a", "b"]);
    let (mut a, mut b) = cluster.pair();
    let before = b.memory();
    b.tell("slow 20");
    b.wait_status("a", "up=true");
    a.tell("fill b 100000");
    a.wait("filled b");
    b.tell("slow 0");
    a.wait_status("b", "up=true ups=1 received=0 flying=0 ");
    assert!(b.memory() < before + 64, "{} MiB before, {} after", before, b.memory());
}

#[test]
fn nodes_that_are_taken_off_the_list_are_cut_off_and_come_back() {
    let cluster = Cluster::new(&["a", "b"]);
    let (mut a, mut b) = cluster.pair();
    b.tell("peers");
    assert!(b.wait("down a").join(" ").contains("not listed"));
    a.wait("down b");
    a.wait("refused b refused");
    b.knows(&[&a]);
    a.wait("up b");
    b.wait("up a");
}

#[test]
fn a_node_that_stops_says_goodbye() {
    let cluster = Cluster::new(&["a", "b"]);
    let (mut a, mut b) = cluster.pair();
    b.tell("send a 100 1000");
    b.tell("stop");
    b.wait("stopped");
    assert_eq!(a.wait("last b"), ["100"]);
    assert!(a.wait("down b").join(" ").contains("the node left"));
}

#[test]
fn nodes_without_a_common_version_say_so() {
    let cluster = Cluster::new(&["a", "b"]);
    let mut a = cluster.start("a");
    let mut b = Node::start("b", &cluster.path("b"), &[("VERSIONS", "2-3")]);
    a.knows(&[&b]);
    b.knows(&[&a]);
    assert!(a.wait("refused b version").join(" ").contains("speaks link protocol 2 to 3, this node 1 to 1"));
    assert!(b.wait("refused a version").join(" ").contains("speaks link protocol 1 to 1, this node 2 to 3"));
}

#[test]
fn nodes_speak_the_newest_version_that_both_know() {
    let cluster = Cluster::new(&["a", "b"]);
    let mut a = cluster.start("a");
    let mut b = Node::start("b", &cluster.path("b"), &[("VERSIONS", "1-3")]);
    a.knows(&[&b]);
    b.knows(&[&a]);
    a.wait("up b");
    b.wait("up a");
}

#[test]
fn frames_of_a_kind_to_come_are_counted_and_ignored() {
    let cluster = Cluster::new(&["a", "b"]);
    let (mut a, mut b) = cluster.pair();
    a.tell("strange b");
    b.wait_status("a", "unknown=2");
    a.wait_status("b", "up=true ups=1 received=0 flying=0 ");
}

#[test]
fn certificates_and_the_authority_change_while_linked() {
    let cluster = Cluster::new(&["a", "b"]);
    let (mut a, mut b) = cluster.pair();
    // A new authority with the old cookie; both are trusted for a while.
    pki::init_ca(&cluster.path("ca2"), "test").unwrap();
    let read = |path: &str| std::fs::read_to_string(cluster.path(path)).unwrap();
    let (old, new) = (read("ca/ca.pem"), read("ca2/ca.pem"));
    std::fs::write(cluster.path("ca2/cookie"), read("ca/cookie")).unwrap();
    for node in ["a", "b"] {
        std::fs::write(cluster.path(&format!("{node}/ca.pem")), format!("{old}{new}")).unwrap();
    }
    let mut reload = || {
        for node in [&mut a, &mut b] {
            node.tell("reload");
            node.wait("reloaded");
        }
    };
    reload();
    std::fs::write(cluster.path("ca2/ca.pem"), format!("{old}{new}")).unwrap();
    cluster.issue("ca2", "a");
    cluster.issue("ca2", "b");
    reload();
    for node in ["a", "b"] {
        std::fs::write(cluster.path(&format!("{node}/ca.pem")), &new).unwrap();
    }
    reload();
    a.tell("send b 10 10");
    b.wait("last a");
    a.wait_status("b", "up=true ups=1 ");
    // A new handshake uses what is new: the old authority is not believed any more.
    b.tell("peers");
    a.wait("down b");
    b.knows(&[&a]);
    a.wait("up b");
    // What cannot be used is refused, and the old stays.
    std::fs::write(cluster.path("a/node.pem"), "nonsense").unwrap();
    a.tell("reload");
    a.wait("not reloaded");
    cluster.issue("ca", "a");
    a.tell("reload");
    a.wait("reloaded");
}
