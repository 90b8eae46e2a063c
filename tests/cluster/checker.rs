//! The rules: what must hold of what left worlds ([`History`]) and of what the store has ([`Kept`]), whatever happened in between.
//!
//! Start with [`problems`]. Pure: who reads files and the database is `watch.rs` and `database.rs`. A history that grows is judged again
//! and again while the cluster runs: what left is read first, the store after it, in one snapshot. That something left says that it is
//! durable, with all that it follows from. Negative controls: `checker_tests.rs`.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Arguments;

/// Something of every world.
pub type Worlds<T> = BTreeMap<String, T>;

/// What left a world in one generation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Era {
    /// Whose file it was in.
    pub node: String,
    pub lines: u64,
    pub tick: u64,
    /// First and last number that the ledger showed: storage.
    pub ledger: Option<(u64, u64)>,
    /// First and last number that the diary showed: memory.
    pub diary: Option<(u64, u64)>,
    /// The mark that the banner showed last: the version.
    pub mark: u64,
}

/// What left one world.
#[derive(Debug, Clone, Default)]
pub struct Left {
    pub eras: BTreeMap<u64, Era>,
    /// The highest number that went out in a call.
    pub called: u64,
    /// By caller, the highest number that was answered.
    pub answered: BTreeMap<String, u64>,
}

impl Left {
    /// The newest generation that let something out, and what.
    pub fn newest(&self) -> Option<(u64, &Era)> {
        self.eras.iter().next_back().map(|(generation, era)| (*generation, era))
    }
}

/// What left all worlds, on whatever node.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub worlds: Worlds<Left>,
    /// What was wrong with a line as it came.
    pub problems: Vec<String>,
}

impl History {
    /// One line of a node's outputs, in their order there. Gives its world and generation.
    pub fn add(&mut self, node: &str, line: &str) -> (String, u64) {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let name = line["world"].as_str().unwrap_or_else(|| panic!("no world: {line}")).to_owned();
        let [generation, tick] =
            ["generation", "tick"].map(|field| line[field].as_u64().unwrap_or_else(|| panic!("no {field}: {line}")));
        let left = self.worlds.entry(name.clone()).or_default();
        let era = left.eras.entry(generation).or_insert_with(|| Era { node: node.to_owned(), ..Era::default() });
        let mut rule = |holds: bool, otherwise: Arguments<'_>| {
            if !holds {
                self.problems.push(format!("{name}: {otherwise}"));
            }
        };
        rule(
            era.node == node,
            format_args!("two owners: generation {generation} let something out on {} and on {node}", era.node),
        );
        let known = (era.lines > 0).then_some(era.tick);
        rule(
            known.is_none_or(|last| tick >= last),
            format_args!("back: tick {tick} after {} in generation {generation}", era.tick),
        );
        (era.lines, era.tick) = (era.lines + 1, tick);
        for command in line["commands"].as_array().into_iter().flatten() {
            let number: u64 = command["text"].as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{line}"));
            let (what, shown) = match command["element"].as_str() {
                Some("ledger") => ("ledger", &mut era.ledger),
                Some("diary") => ("diary", &mut era.diary),
                Some("banner") => {
                    era.mark = number;
                    continue;
                }
                _ => panic!("nobody shows this: {line}"),
            };
            if let Some((_, last)) = *shown {
                let follows = number == last + 1;
                rule(follows, format_args!("order: the {what} showed {number} after {last} in generation {generation}"));
            }
            *shown = Some((shown.map_or(number, |(first, _)| first), number));
        }
        for call in line["calls"].as_array().into_iter().flatten() {
            match (call.get("Call"), call.get("Reply")) {
                (Some(call), None) => left.called = left.called.max(number_of(call)),
                (None, Some(answer)) => {
                    let caller = answer["world"].as_str().unwrap_or_else(|| panic!("{line}")).to_owned();
                    let highest = left.answered.entry(caller).or_default();
                    *highest = (*highest).max(number_of(answer));
                }
                _ => panic!("neither call nor answer: {line}"),
            }
        }
        (name, generation)
    }
}

/// Of a call or an answer: the payload is its digits.
fn number_of(call: &Value) -> u64 {
    let bytes = call["payload"].as_array().into_iter().flatten();
    let digit = |byte: &Value| byte.as_u64().and_then(|byte| (48..=57).contains(&byte).then(|| byte - 48));
    bytes.fold(0, |number, byte| 10 * number + digit(byte).unwrap_or_else(|| panic!("no digits: {call}")))
}

/// What a receiver has of one caller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Received {
    /// The last call applied.
    pub last: u64,
    /// Calls that did not follow the one before.
    pub gaps: u64,
    /// Calls that had been applied.
    pub again: u64,
}

/// What the store has of one world. All of one snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    pub generation: u64,
    pub commits: u64,
    pub counter: u64,
    /// Written in the same tick as `counter`, after it.
    pub twin: u64,
    /// The last number that the sender took.
    pub sent: u64,
    /// The last call whose answer came.
    pub answered: u64,
    /// Answers that had come before.
    pub answered_again: u64,
    /// Answers that came to another call than theirs.
    pub mixed: u64,
    /// By caller.
    pub received: BTreeMap<String, Received>,
    /// The banner's.
    pub mark: u64,
}

impl Kept {
    /// A number that a script keeps.
    pub fn put(&mut self, namespace: &str, key: &str, number: u64) {
        let field = match (namespace, key) {
            ("ledger", "counter") => &mut self.counter,
            ("ledger", "twin") => &mut self.twin,
            ("sender", "sent") => &mut self.sent,
            ("sender", "answered") => &mut self.answered,
            ("sender", "again") => &mut self.answered_again,
            ("sender", "mixed") => &mut self.mixed,
            // Its open calls.
            ("sender", _) if key.starts_with('o') => return,
            ("banner", "mark") => &mut self.mark,
            ("receiver", _) => {
                let (caller, word) = key.split_once('/').unwrap_or_else(|| panic!("nobody writes {namespace}/{key}"));
                let received = self.received.entry(caller.to_owned()).or_default();
                match word {
                    "last" => &mut received.last,
                    "gap-" => &mut received.gaps,
                    "agai" => &mut received.again,
                    _ => panic!("nobody writes {namespace}/{key}"),
                }
            }
            _ => panic!("nobody writes {namespace}/{key}"),
        };
        *field = number;
    }
}

/// What is wrong. `ring`: each calls the next, the last one the first. `before`: an earlier snapshot. `clean`: nothing failed since the
/// beginning: worlds only stopped, moved, and went on.
pub fn problems(ring: &[String], history: &History, before: &Worlds<Kept>, now: &Worlds<Kept>, clean: bool) -> Vec<String> {
    let mut problems = history.problems.clone();
    let (nothing, no_left) = (Kept::default(), Left::default());
    let mut rule = |holds: bool, world: &str, otherwise: Arguments<'_>| {
        if !holds {
            problems.push(format!("{world}: {otherwise}"));
        }
    };
    for (i, world) in ring.iter().enumerate() {
        let [previous, next] = [i + ring.len() - 1, i + 1].map(|i| &ring[i % ring.len()]);
        let of = |kept: &Worlds<Kept>, world: &str| kept.get(world).unwrap_or(&nothing).clone();
        let (before, kept) = (of(before, world), of(now, world));
        let left = history.worlds.get(world).unwrap_or(&no_left);
        let Kept { generation, commits, counter, twin, sent, .. } = kept;

        // One life after the other: each goes on above everything that an earlier one showed.
        let (mut shown, mut memory) = (None, None);
        for (number, era) in &left.eras {
            rule(*number <= generation, world, format_args!("from nowhere: generation {number}, the store has {generation}"));
            if let (Some(last), Some((first, _))) = (shown, era.ledger) {
                rule(first > last, world, format_args!("lost: generation {number} began with {first}, {last} had been shown"));
                let whole = !clean || first == last + 1;
                rule(whole, world, format_args!("kept back: generation {number} began with {first} after {last}"));
            }
            if let (Some(last), Some((first, _))) = (memory, era.diary) {
                let whole = !clean || first == last + 1;
                rule(whole, world, format_args!("memory: generation {number} began with {first} after {last}"));
            }
            shown = era.ledger.map(|(_, last)| last).max(shown);
            memory = era.diary.map(|(_, last)| last).or(memory);
        }

        // Nothing that left is lost.
        let last = shown.unwrap_or_default();
        rule(last <= counter, world, format_args!("lost: the ledger showed {last}, the store has {counter}"));
        rule(left.called <= sent, world, format_args!("lost: call {} left, the store has {sent}", left.called));
        for (caller, highest) in &left.answered {
            let applied = kept.received.get(caller).map_or(0, |received| received.last);
            rule(
                *highest <= applied,
                world,
                format_args!("lost: call {highest} of {caller} was answered, {applied} was applied last"),
            );
        }
        let applied = of(now, next).received.get(world).map_or(0, |received| received.last);
        let answered = kept.answered;
        rule(answered <= applied, world, format_args!("lost: the answer to call {answered} came, {next} applied {applied} last"));

        // Every call is applied once, in order, and only if it was made.
        for (caller, Received { last, gaps, again }) in &kept.received {
            rule(caller == previous, world, format_args!("from nowhere: {caller} does not call {world}"));
            rule(*again == 0, world, format_args!("twice: {again} calls of {caller} came again"));
            rule(*gaps == 0, world, format_args!("order: {gaps} times a call of {caller} did not follow the one before"));
            let sent = of(now, caller).sent;
            rule(*last <= sent, world, format_args!("from nowhere: call {last} of {caller} was applied, it sent {sent}"));
        }
        rule(kept.answered_again == 0, world, format_args!("twice: {} answers came again", kept.answered_again));
        rule(kept.mixed == 0, world, format_args!("mixed up: {} answers came to another call than theirs", kept.mixed));

        // Nothing goes back, and no tick is torn.
        let highest = |kept: &Kept| kept.received.get(previous).map_or(0, |received| received.last);
        let numbers = [
            ("generation", before.generation, generation),
            ("commit", before.commits, commits),
            ("counter", before.counter, counter),
            ("sender", before.sent, sent),
            ("last answer", before.answered, answered),
            ("last call", highest(&before), highest(&kept)),
        ];
        for (what, before, now) in numbers {
            rule(now >= before, world, format_args!("back: the {what} is {now}, was {before}"));
        }
        rule(twin == counter, world, format_args!("torn: the counter is {counter}, its twin {twin}"));
    }
    problems
}
