//! When the database, or the way to it, fails: nothing acknowledged is lost, nothing is applied twice, and worlds wait instead of failing.

use crate::postgres::Server;
use crate::proxy::{Fault, Proxy};
use crate::support::{Cluster, LONG, batch, commit, empty, go, info, start, world};
use aether_store::{Batch, Claim, Directory, NodeId, PostgresOptions, PostgresStore, Store, StoreError};
use std::collections::VecDeque;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// Batches of a world that wait at most: enough for chains.
const IN_FLIGHT: usize = 16;

/// A world that commits without end. Each commit writes a key of its own and one that all of them write.
struct Load<'a> {
    store: &'a PostgresStore,
    name: String,
    claim: Claim,
    waiting: VecDeque<Receiver<Result<(), StoreError>>>,
}

impl<'a> Load<'a> {
    fn new(store: &'a PostgresStore, name: String) -> Load<'a> {
        let claim = store.claim(&world(&name)).unwrap();
        Load { store, name, claim, waiting: VecDeque::new() }
    }

    fn step(&mut self) {
        let number = (self.claim.commit_seq + 1).to_string();
        let mut next = batch(&self.name, self.claim, &number, Some(number.as_bytes()));
        next.writes.extend(batch(&self.name, self.claim, "last", Some(number.as_bytes())).writes);
        self.waiting.push_back(start(self.store, next));
        self.claim.commit_seq += 1;
        if self.waiting.len() >= IN_FLIGHT {
            self.waiting.pop_front().unwrap().recv().unwrap().unwrap();
        }
    }

    /// Every answer was yes; the database has each commit once, and no other.
    fn check(self) -> u64 {
        self.waiting.iter().for_each(|answer| answer.recv().unwrap().unwrap());
        let commits = self.claim.commit_seq;
        let keys = self.store.load_keys(&world(&self.name)).unwrap();
        assert_eq!(keys.len() as u64, commits + 1, "{}", self.name);
        for (_, key, value) in keys {
            let wanted = if key == "last" { commits.to_string() } else { key.clone() };
            assert_eq!(String::from_utf8(value).unwrap(), wanted, "{}: {key}", self.name);
        }
        assert_eq!(self.store.claim(&world(&self.name)).unwrap().commit_seq, commits, "{}", self.name);
        commits
    }
}

/// Worlds that commit while `disturb` runs, and are checked when it has.
fn under_load(store: &PostgresStore, disturb: impl FnOnce()) -> u64 {
    let over = AtomicBool::new(false);
    let loads: Vec<_> = (0..4).map(|i| Load::new(store, format!("w{i}"))).collect();
    std::thread::scope(|scope| {
        let worlds: Vec<_> = loads
            .into_iter()
            .map(|mut load| {
                let over = &over;
                scope.spawn(move || {
                    load.step();
                    while !over.load(Ordering::Relaxed) {
                        load.step();
                    }
                    load.check()
                })
            })
            .collect();
        disturb();
        over.store(true, Ordering::Relaxed);
        worlds.into_iter().map(|world| world.join().unwrap()).sum()
    })
}

/// A store on a server of its own.
fn alone(server: &Server) -> (PostgresStore, NodeId) {
    at(&server.url())
}

fn at(url: &str) -> (PostgresStore, NodeId) {
    let options = PostgresOptions { statement_timeout: Duration::from_secs(2), ..PostgresOptions::default() };
    let store = PostgresStore::open(url, options).unwrap();
    let id = store.join(&info("n1"), LONG).unwrap();
    (store, id)
}

#[test]
fn commits_whose_connection_is_ended_again_and_again_are_all_applied_once() {
    let server = Server::start(&[]);
    let (store, _) = alone(&server);
    let ended = || {
        // All of them, ten times a round: also between a commit and its answer.
        let end = "DO $$ BEGIN FOR i IN 1..10 LOOP \
            PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'aether'; \
            PERFORM pg_sleep(0.02 + random() * 0.02); PERFORM pg_stat_clear_snapshot(); END LOOP; END $$";
        for _ in 0..10 {
            server.sql(end);
        }
    };
    assert!(under_load(&store, ended) > 0);
}

#[test]
fn commits_go_on_when_the_server_was_restarted_or_has_crashed() {
    let server = Server::start(&[]);
    let (store, me) = alone(&server);
    under_load(&store, || {
        for round in 0..4 {
            let began = store.load_keys(&world("w0")).unwrap().len();
            if round % 2 == 0 {
                server.stop()
            } else {
                server.crash()
            }
            server.start_again();
            let deadline = Instant::now() + Duration::from_secs(20);
            while store.load_keys(&world("w0")).unwrap().len() < began + 2 * IN_FLIGHT {
                assert!(Instant::now() < deadline, "commits do not go on after a restart");
            }
            store.renew(&me, LONG).unwrap();
        }
    });
}

#[test]
fn while_the_database_is_away_commits_wait_and_other_calls_fail_in_time() {
    let server = Server::start(&[]);
    let (store, me) = alone(&server);
    let claim = store.claim(&world("town")).unwrap();
    server.stop();
    let answer = start(&store, batch("town", claim, "k", Some(b"v")));
    let since = Instant::now();
    assert!(matches!(store.load_keys(&world("town")), Err(StoreError::Database { .. })));
    assert!(since.elapsed() < Duration::from_secs(12), "{:?}", since.elapsed());
    let since = Instant::now();
    assert!(matches!(store.renew(&me, Duration::from_secs(2)), Err(StoreError::Database { .. })));
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    assert!(answer.try_recv().is_err(), "a commit is not answered while nobody can know");
    server.start_again();
    answer.recv_timeout(Duration::from_secs(20)).unwrap().unwrap();
    store.flush().unwrap();
}

#[test]
fn a_store_that_is_closed_while_the_database_is_away_ends_and_acknowledges_nothing() {
    let server = Server::start(&[]);
    let (store, _) = alone(&server);
    let claim = store.claim(&world("town")).unwrap();
    server.stop();
    let answer = start(&store, batch("town", claim, "k", Some(b"v")));
    let since = Instant::now();
    drop(store);
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    assert!(matches!(answer.recv().unwrap(), Err(StoreError::Closed)));
}

#[test]
fn a_commit_whose_answer_was_lost_is_acknowledged_once_however_it_ended() {
    let late = Fault::Late(Duration::from_millis(300));
    for faults in [
        &[Fault::AnswerLost][..],
        &[Fault::CommitLost],
        &[late],
        &[Fault::AnswerLost, Fault::AnswerLost, Fault::AnswerLost],
        &[Fault::CommitLost, late, Fault::AnswerLost],
    ] {
        let server = Server::start(&[]);
        let proxy = Proxy::to(server.port());
        let (store, _) = at(&server.url_at(proxy.port));
        let mut loads: Vec<_> = (0..2).map(|i| Load::new(&store, format!("w{i}"))).collect();
        loads.iter_mut().for_each(|load| (0..20).for_each(|_| load.step()));
        store.flush().unwrap();
        proxy.arm(faults);
        loads.iter_mut().for_each(|load| (0..20).for_each(|_| load.step()));
        store.flush().unwrap();
        assert_eq!(proxy.struck(), faults.len() as u32, "{faults:?}");
        loads.into_iter().for_each(|load| assert_eq!(load.check(), 40, "{faults:?}"));
    }
}

#[test]
fn a_commit_whose_answer_was_lost_is_refused_if_the_world_was_claimed_meanwhile() {
    let cluster = Cluster::new();
    let (heir, _) = cluster.node("n2");
    let proxy = Proxy::to(cluster.server.port());
    let options = PostgresOptions { statement_timeout: Duration::from_secs(3), ..cluster.options() };
    let store = PostgresStore::open(&cluster.server.url_at(proxy.port), options).unwrap();
    let id = store.join(&info("n1"), LONG).unwrap();
    let claim = store.claim(&world("town")).unwrap();
    proxy.arm(&[Fault::Late(Duration::from_secs(4))]);
    let answer = start(&store, batch("town", claim, "k", Some(b"zombie")));
    while proxy.struck() == 0 {
        std::thread::yield_now();
    }
    heir.bury(&id).unwrap();
    // The transaction on its way holds the world's row; the server ends it long before the lease would.
    let mut new = heir.claim(&world("town")).unwrap();
    go(&heir, batch("town", new, "k", Some(b"heir")), &mut new);
    // It was tried again at once, and may have been the first: then the heir knows.
    let applied = answer.recv().unwrap().is_ok();
    assert_eq!(new.commit_seq, 1 + u64::from(applied));
    assert_eq!(heir.load_keys(&world("town")).unwrap()[0].2, b"heir");
}

#[test]
fn what_the_database_will_never_take_fails_alone() {
    let cluster = Cluster::new();
    let (store, _) = cluster.node("n1");
    cluster.sql("ALTER TABLE world_kv ADD CHECK (v <> 'poison')");
    let claims: Vec<_> = (0..6).map(|i| (format!("w{i}"), store.claim(&world(&format!("w{i}"))).unwrap())).collect();
    let answers: Vec<_> = claims
        .iter()
        .enumerate()
        .map(|(i, (name, claim))| start(&store, batch(name, *claim, "k", Some(if i == 3 { b"poison" } else { b"food" }))))
        .collect();
    for (i, answer) in answers.into_iter().enumerate() {
        match answer.recv().unwrap() {
            Ok(()) => assert_ne!(i, 3),
            Err(error) => assert!(i == 3 && matches!(error, StoreError::Database { .. }), "{error}"),
        }
    }
    // The world goes on from the commit before.
    let (name, claim) = &claims[3];
    commit(&store, batch(name, *claim, "k", Some(b"food"))).unwrap();
}

#[test]
fn a_row_that_somebody_holds_delays_its_world_until_it_is_let_go() {
    let cluster = Cluster::new();
    let store = cluster.open();
    // So short that the server gives up several times.
    let id = store.join(&info("n1"), Duration::from_millis(400)).unwrap();
    store.renew(&id, LONG).unwrap();
    let mut claim = store.claim(&world("town")).unwrap();
    let hold = format!("BEGIN; UPDATE {}.world SET ckpt_seq = 0; SELECT pg_sleep(1.5); COMMIT", cluster.schema);
    let mut holder = cluster.server.psql(&hold).stdout(Stdio::null()).spawn().unwrap();
    while cluster.server.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == ["0"] {}
    go(&store, batch("town", claim, "k", Some(b"v")), &mut claim);
    assert!(holder.wait().unwrap().success());
    assert_eq!(store.claim(&world("town")).unwrap().commit_seq, 1);
}

#[test]
fn renewals_do_not_wait_for_other_work() {
    let cluster = Cluster::new();
    let (store, me) = cluster.node("n1");
    let mut claim = store.claim(&world("town")).unwrap();
    let answers: Vec<_> = (0..8)
        .map(|_| {
            let answer = start(&store, Batch { checkpoint: Some(vec![7; 8 << 20]), ..empty("town", claim) });
            claim.commit_seq += 1;
            answer
        })
        .collect();
    let mut longest = Duration::ZERO;
    while answers.last().unwrap().try_recv().is_err() {
        let since = Instant::now();
        store.renew(&me, LONG).unwrap();
        longest = longest.max(since.elapsed());
    }
    assert!(longest < Duration::from_secs(1), "a renewal took {longest:?}");
}
