//! Each rule of the checker can fail: a good history, and damages to it that must be found.

use super::checker::{History, Kept, Received, Worlds, problems};

/// Two worlds. `north` showed 1 to 3 on node a and 4 on node b after a move, and called `south` twice; both were answered.
struct Case {
    lines: Vec<(&'static str, String)>,
    before: Worlds<Kept>,
    now: Worlds<Kept>,
    clean: bool,
}

fn line(world: &str, generation: u64, tick: u64, ledger: u64, diary: u64, calls: &str) -> String {
    let show = |element: &str, text: u64| format!(r#"{{"command":"set_text","player":7,"element":"{element}","text":"{text}"}}"#);
    let commands = [("ledger", ledger), ("diary", diary), ("banner", 1)].map(|(element, text)| show(element, text)).join(",");
    format!(r#"{{"world":"{world}","generation":{generation},"tick":{tick},"commands":[{commands}],"calls":[{calls}]}}"#)
}

fn call(number: char) -> String {
    let payload = u32::from(number);
    format!(r#"{{"Call":{{"world":"south","script":"receiver","from":2,"call":9,"method":"north/","payload":[{payload}]}}}}"#)
}

fn answer(number: char) -> String {
    format!(r#"{{"Reply":{{"world":"north","call":9,"payload":[{}]}}}}"#, u32::from(number))
}

impl Case {
    fn good() -> Case {
        let lines = vec![
            ("a", line("north", 1, 1, 1, 1, &call('1'))),
            ("a", line("north", 1, 2, 2, 2, "")),
            ("b", line("south", 1, 1, 1, 1, &answer('1'))),
            ("a", line("north", 1, 3, 3, 3, &call('2'))),
            ("b", line("north", 2, 4, 4, 4, "")),
            ("b", line("south", 1, 2, 2, 2, &answer('2'))),
        ];
        let kept = |generation, counter| Kept { generation, counter, twin: counter, commits: 10, mark: 1, ..Kept::default() };
        let received = |last| [("north".to_owned(), Received { last, ..Received::default() })].into();
        let north = Kept { sent: 2, answered: 2, ..kept(2, 4) };
        let south = Kept { received: received(2), ..kept(1, 2) };
        let earlier_north = Kept { sent: 1, answered: 1, ..kept(1, 2) };
        let earlier_south = Kept { received: received(1), ..kept(1, 1) };
        let worlds = |north, south| [("north".to_owned(), north), ("south".to_owned(), south)].into();
        Case { lines, before: worlds(earlier_north, earlier_south), now: worlds(north, south), clean: true }
    }

    fn problems(&self) -> Vec<String> {
        let mut history = History::default();
        for (node, line) in &self.lines {
            history.add(node, line);
        }
        problems(&["north".to_owned(), "south".to_owned()], &history, &self.before, &self.now, self.clean)
    }

    fn now(&mut self, world: &str) -> &mut Kept {
        self.now.get_mut(world).unwrap()
    }

    fn before(&mut self, world: &str) -> &mut Kept {
        self.before.get_mut(world).unwrap()
    }

    fn received(&mut self) -> &mut Received {
        self.now("south").received.get_mut("north").unwrap()
    }

    fn line(&mut self, at: usize, from: &str, to: &str) {
        assert!(self.lines[at].1.contains(from));
        self.lines[at].1 = self.lines[at].1.replace(from, to);
    }
}

type Damage = fn(&mut Case);

#[test]
fn the_cluster_checker_finds_every_second_owner_loss_repetition_and_tear() {
    assert_eq!(Case::good().problems(), Vec::<String>::new());
    assert_eq!(Case { clean: false, ..Case::good() }.problems(), Vec::<String>::new());
    let damages: [(&str, Damage); 24] = [
        ("north: two owners: generation 1 let something out on a and on b", |case| case.lines[3].0 = "b"),
        ("north: back: tick 1 after 2", |case| case.line(3, r#""tick":3"#, r#""tick":1"#)),
        ("north: order: the ledger showed 5 after 2", |case| case.line(3, r#""ledger","text":"3""#, r#""ledger","text":"5""#)),
        ("north: order: the diary showed 2 after 2", |case| case.line(3, r#""diary","text":"3""#, r#""diary","text":"2""#)),
        // A zombie: generation 1 shows something after generation 2 began.
        ("north: lost: generation 2 began with 4, 4 had been shown", |case| {
            case.lines.push(("a", line("north", 1, 4, 4, 4, "")));
        }),
        ("north: from nowhere: generation 2, the store has 1", |case| case.now("north").generation = 1),
        ("north: lost: the ledger showed 4, the store has 3", |case| {
            (case.now("north").counter, case.now("north").twin) = (3, 3);
        }),
        ("north: lost: call 2 left, the store has 1", |case| case.now("north").sent = 1),
        ("south: lost: call 2 of north was answered, 1 was applied last", |case| case.received().last = 1),
        ("north: lost: the answer to call 2 came, south applied 1 last", |case| case.received().last = 1),
        ("south: twice: 1 calls of north", |case| case.received().again = 1),
        ("south: order: 1 times a call of north", |case| case.received().gaps = 1),
        ("south: from nowhere: call 3 of north was applied, it sent 2", |case| case.received().last = 3),
        ("south: from nowhere: south does not call south", |case| {
            case.now("south").received.insert("south".to_owned(), Received::default());
        }),
        ("north: twice: 1 answers", |case| case.now("north").answered_again = 1),
        ("north: mixed up: 1 answers", |case| case.now("north").mixed = 1),
        ("north: back: the generation is 2, was 3", |case| case.before("north").generation = 3),
        ("north: back: the commit is 10, was 11", |case| case.before("north").commits = 11),
        ("north: back: the counter is 4, was 5", |case| case.before("north").counter = 5),
        ("north: back: the sender is 2, was 3", |case| case.before("north").sent = 3),
        ("south: back: the last call is 2, was 3", |case| {
            case.before("south").received.get_mut("north").unwrap().last = 3;
        }),
        ("north: torn: the counter is 4", |case| case.now("north").twin = 3),
        ("north: memory: generation 2 began with 2 after 3", |case| {
            case.line(4, r#""diary","text":"4""#, r#""diary","text":"2""#)
        }),
        ("north: kept back: generation 2 began with 5 after 3", |case| {
            case.line(4, r#""ledger","text":"4""#, r#""ledger","text":"5""#);
        }),
    ];
    for (wanted, damage) in damages {
        let mut case = Case::good();
        damage(&mut case);
        let problems = case.problems();
        assert!(problems.iter().any(|problem| problem.starts_with(wanted)), "{wanted:?} in {problems:?}");
    }
}

#[test]
fn a_failure_may_take_memory_back_to_a_checkpoint_but_never_what_was_shown_from_storage() {
    let mut case = Case { clean: false, ..Case::good() };
    case.line(4, r#""diary","text":"4""#, r#""diary","text":"2""#);
    assert_eq!(case.problems(), Vec::<String>::new());
    // An output that was durable and never left is missed by nobody.
    case.line(4, r#""ledger","text":"4""#, r#""ledger","text":"6""#);
    (case.now("north").counter, case.now("north").twin) = (6, 6);
    assert_eq!(case.problems(), Vec::<String>::new());
    case.line(4, r#""ledger","text":"6""#, r#""ledger","text":"3""#);
    assert_eq!(case.problems(), ["north: lost: generation 2 began with 3, 3 had been shown"]);
}

#[test]
fn what_scripts_keep_is_read_by_its_name() {
    let mut kept = Kept::default();
    let all =
        [("ledger", "counter", 1), ("ledger", "twin", 2), ("sender", "sent", 3), ("sender", "oaab", 99), ("banner", "mark", 4)];
    for (namespace, key, number) in all {
        kept.put(namespace, key, number);
    }
    for (key, number) in [("w1/last", 5), ("w1/gap-", 6), ("w1/agai", 7)] {
        kept.put("receiver", key, number);
    }
    assert_eq!((kept.counter, kept.twin, kept.sent, kept.mark), (1, 2, 3, 4));
    assert_eq!(kept.received["w1"], Received { last: 5, gaps: 6, again: 7 });
}
