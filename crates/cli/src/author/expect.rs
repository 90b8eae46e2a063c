//! What a scenario's step expects, and whether it is so.
//!
//! Lines, answers, broadcasts and commands are read in order: what one step has found is behind it for the next. Start with [`Expect`]
//! and [`Expect::check`], which changes nothing in the world. Not here: what happens (`scenario`).

use aether_scripting::{EntityId, Host, Vec3};
use aether_world_runtime::ScriptState;
use serde::Deserialize;
use std::collections::HashMap;

/// What must be so, all of it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Expect {
    /// A log line with this in it.
    log: Option<String>,
    /// No log line with this in it since the test began.
    not_logged: Option<String>,
    /// The answer to a call of the test, in full.
    answer: Option<String>,
    /// So many answers, whatever they say.
    answers: Option<usize>,
    /// A call of the script to the test: `method payload`.
    called: Option<String>,
    /// A broadcast of a topic that the test has subscribed to.
    broadcast: Option<Broadcast>,
    /// A command to clients: its fields, as many as matter.
    command: Option<toml::Table>,
    /// A call to another world: `world`, `script`, `method`, `payload`, as many as matter.
    outbound: Option<toml::Table>,
    /// Entities of the world.
    entity: Option<Entity>,
    /// A key of the script's storage.
    storage: Option<Stored>,
    /// What the script is doing: running, paused, suspended, restarting, finished, parked.
    state: Option<String>,
    /// The script ended, with this in its cause. An end that is not expected fails the test.
    end: Option<String>,
    /// Fuel of the script's dearest turn until now, at most.
    fuel_max: Option<u64>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Broadcast {
    topic: String,
    /// In full; anything if it is left out.
    payload: Option<String>,
}

/// Entities by name or kind, and what must be so of them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Entity {
    /// One that the test spawned.
    name: Option<String>,
    /// All of a kind.
    kind: Option<String>,
    /// How many there are: at least one if it is left out.
    count: Option<usize>,
    /// Of them, only those near here …
    near: Option<[f32; 3]>,
    /// … within so many metres: half a metre if it is left out.
    within: Option<f32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    key: String,
    /// In full; `missing = true` if there must be none.
    value: Option<String>,
    #[serde(default)]
    missing: bool,
}

/// What the test has seen and heard.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub log: Vec<String>,
    pub answers: Vec<String>,
    pub calls: Vec<String>,
    pub broadcasts: Vec<(String, String)>,
    pub commands: Vec<serde_json::Value>,
    pub outbound: Vec<serde_json::Value>,
    pub states: HashMap<String, ScriptState>,
    pub ends: Vec<String>,
    pub fuel_max: u64,
    /// How many of each were found by earlier steps.
    read: Read,
}

#[derive(Debug, Default, Clone, Copy)]
struct Read {
    log: usize,
    answers: usize,
    calls: usize,
    broadcasts: usize,
    commands: usize,
    outbound: usize,
    ends: usize,
}

/// The first after `from` that is wanted: where the next step goes on.
fn after<T>(all: &[T], from: usize, wanted: impl Fn(&T) -> bool) -> Option<usize> {
    all.iter().skip(from).position(wanted).map(|at| from + at + 1)
}

/// What was there instead, the last few.
fn instead<T>(all: &[T], from: usize, show: impl Fn(&T) -> String) -> Vec<String> {
    let fresh = all.get(from..).unwrap_or(&[]);
    let skip = fresh.len().saturating_sub(8);
    match fresh.is_empty() {
        true => vec!["  there was none".to_owned()],
        false => fresh.iter().skip(skip).map(|one| format!("  there was {}", show(one))).collect(),
    }
}

/// Whether every field that is wanted is there with the same value.
fn has_fields(value: &serde_json::Value, wanted: &toml::Table) -> bool {
    wanted.iter().all(|(key, wanted)| {
        let wanted = serde_json::to_value(wanted).unwrap_or_default();
        match (value.get(key), wanted.as_f64()) {
            (Some(found), Some(number)) => found.as_f64().is_some_and(|found| (found - number).abs() < 1e-4),
            (found, _) => found == Some(&wanted),
        }
    })
}

impl Expect {
    /// Whether an end of the script is what is wanted.
    pub fn wants_end(&self) -> bool {
        self.end.is_some()
    }

    /// Whether waiting could not mend it.
    pub fn is_never(&self) -> bool {
        self.not_logged.is_some() || self.fuel_max.is_some() || self.answers.is_some()
    }

    /// `Err`: what is not so, and what is instead. `host` is entered as the test.
    pub fn check(
        &self,
        heard: &mut Heard,
        host: &mut dyn Host,
        named: &HashMap<String, EntityId>,
        script: &str,
    ) -> Result<(), Vec<String>> {
        let fail = |what: String, more: Vec<String>| Err([vec![what], more].concat());
        // Nothing is behind us until everything is found.
        let mut read = heard.read;
        if let Some(text) = &self.log {
            match after(&heard.log, read.log, |line| line.contains(text.as_str())) {
                Some(at) => read.log = at,
                None => return fail(format!("no log line with {text:?}"), instead(&heard.log, read.log, String::clone)),
            }
        }
        if let Some(text) = &self.not_logged
            && let Some(line) = heard.log.iter().find(|line| line.contains(text.as_str()))
        {
            return fail(format!("a log line with {text:?}: {line}"), Vec::new());
        }
        if let Some(text) = &self.answer {
            match heard.answers.get(read.answers) {
                Some(answer) if answer == text => read.answers += 1,
                Some(answer) => return fail(format!("the answer is {answer:?}, not {text:?}"), Vec::new()),
                None => return fail(format!("no answer, {text:?} is expected"), Vec::new()),
            }
        }
        if let Some(count) = self.answers {
            let found = heard.answers.len() - read.answers;
            if found != count {
                return fail(format!("{found} answers, not {count}"), Vec::new());
            }
            read.answers = heard.answers.len();
        }
        if let Some(text) = &self.called {
            match after(&heard.calls, read.calls, |call| call == text) {
                Some(at) => read.calls = at,
                None => return fail(format!("no call {text:?}"), instead(&heard.calls, read.calls, |c| format!("{c:?}"))),
            }
        }
        if let Some(Broadcast { topic, payload }) = &self.broadcast {
            let wanted = |(t, p): &(String, String)| t == topic && payload.as_ref().is_none_or(|payload| p == payload);
            match after(&heard.broadcasts, read.broadcasts, wanted) {
                Some(at) => read.broadcasts = at,
                None => {
                    let others = instead(&heard.broadcasts, read.broadcasts, |(topic, payload)| format!("{topic:?} {payload:?}"));
                    return fail(format!("no broadcast {topic:?} {:?}", payload.as_deref().unwrap_or("…")), others);
                }
            }
        }
        for (wanted, all, at, what) in [
            (&self.command, &heard.commands, &mut read.commands, "command"),
            (&self.outbound, &heard.outbound, &mut read.outbound, "call to another world"),
        ] {
            let Some(wanted) = wanted else { continue };
            match after(all, *at, |value| has_fields(value, wanted)) {
                Some(next) => *at = next,
                None => return fail(format!("no {what} with {wanted}"), instead(all, *at, ToString::to_string)),
            }
        }
        if let Some(entity) = &self.entity {
            entity.check(host, named).map_err(|error| vec![error])?;
        }
        if let Some(stored) = &self.storage {
            stored.check(host).map_err(|error| vec![error])?;
        }
        if let Some(text) = &self.end {
            match after(&heard.ends, read.ends, |end| end.contains(text.as_str())) {
                Some(at) => read.ends = at,
                None => return fail(format!("it did not end with {text:?}"), instead(&heard.ends, read.ends, String::clone)),
            }
        }
        if let Some(wanted) = &self.state {
            let state = heard.states.get(script).and_then(|state| serde_json::to_value(state).ok());
            let state = state.and_then(|state| Some(state.get("state")?.as_str()?.to_owned())).unwrap_or_default();
            if state != *wanted {
                return fail(format!("{script} is {state}, not {wanted}"), Vec::new());
            }
        }
        if let Some(most) = self.fuel_max
            && heard.fuel_max > most
        {
            return fail(format!("a turn took {} fuel, at most {most} is expected", heard.fuel_max), Vec::new());
        }
        heard.read = read;
        Ok(())
    }
}

impl Entity {
    fn check(&self, host: &mut dyn Host, named: &HashMap<String, EntityId>) -> Result<(), String> {
        let mut found = Vec::new();
        if let Some(name) = &self.name {
            found.extend(named.get(name).copied());
        } else if let Some(kind) = &self.kind {
            found.reserve(1_024);
            // A kind that nothing has ever had is none.
            let _ = host.query_kind(kind, &mut found);
        } else {
            return Err("expect.entity needs a name or a kind".to_owned());
        }
        let places: Vec<Vec3> = found.iter().filter_map(|entity| host.position(*entity).ok()).collect();
        let near = |place: &&Vec3| {
            let Some([x, y, z]) = self.near else { return true };
            let (dx, dy, dz) = (place.x - x, place.y - y, place.z - z);
            (dx * dx + dy * dy + dz * dz).sqrt() <= self.within.unwrap_or(0.5)
        };
        let count = places.iter().filter(near).count();
        let good = self.count.map_or(count > 0, |wanted| count == wanted);
        if good {
            return Ok(());
        }
        let what = self.name.as_ref().or(self.kind.as_ref()).cloned().unwrap_or_default();
        let at: Vec<_> = places.iter().take(8).map(|at| format!("[{:.2}, {:.2}, {:.2}]", at.x, at.y, at.z)).collect();
        let wanted = self.count.map_or("at least 1".to_owned(), |count| count.to_string());
        Err(format!("{count} of {what} are as expected, not {wanted}; there are {}: {}", places.len(), at.join(" ")))
    }
}

impl Stored {
    fn check(&self, host: &mut dyn Host) -> Result<(), String> {
        let mut value = Vec::new();
        let found = host.read_value(&self.key, &mut value).is_ok().then(|| String::from_utf8_lossy(&value).into_owned());
        let good = match (&self.value, &found) {
            (_, found) if self.missing => found.is_none(),
            (Some(wanted), Some(found)) => found == wanted,
            (None, found) => found.is_some(),
            (Some(_), None) => false,
        };
        match (good, found) {
            (true, _) => Ok(()),
            (false, Some(found)) => Err(format!("storage has {:?} = {found:?}", self.key)),
            (false, None) => Err(format!("storage has no {:?}", self.key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect(text: &str) -> Expect {
        toml::from_str(text).unwrap()
    }

    fn check(expect: &Expect, heard: &mut Heard) -> Result<(), Vec<String>> {
        expect.check(heard, &mut aether_scripting::NoEngine, &HashMap::new(), "s")
    }

    #[test]
    fn what_one_step_has_found_the_next_does_not_find_again() {
        let mut heard = Heard { log: vec!["a 1".into(), "b".into(), "a 2".into()], ..Heard::default() };
        let wanted = expect("log = \"a\"");
        assert_eq!(check(&wanted, &mut heard), Ok(()));
        assert_eq!(check(&wanted, &mut heard), Ok(()));
        assert_eq!(check(&wanted, &mut heard), Err(vec!["no log line with \"a\"".into(), "  there was none".into()]));
    }

    #[test]
    fn a_step_that_fails_has_found_nothing() {
        let mut heard = Heard { log: vec!["a".into()], answers: vec!["no".into()], ..Heard::default() };
        assert_eq!(
            check(&expect("log = \"a\"\nanswer = \"yes\""), &mut heard),
            Err(vec!["the answer is \"no\", not \"yes\"".into()])
        );
        assert_eq!(check(&expect("log = \"a\""), &mut heard), Ok(()));
    }

    #[test]
    fn of_a_command_only_the_fields_that_are_named_matter() {
        let command = serde_json::json!({"command": "play_sound", "sound": "gate-open", "looped": false, "handle": 3});
        let mut heard = Heard { commands: vec![command], ..Heard::default() };
        assert!(check(&expect("command = { sound = \"gate-shut\" }"), &mut heard).is_err());
        assert_eq!(check(&expect("command = { sound = \"gate-open\", handle = 3, looped = false }"), &mut heard), Ok(()));
    }

    #[test]
    fn an_unknown_word_is_an_error_that_lists_the_known_ones() {
        let error = toml::from_str::<Expect>("logged = \"a\"").unwrap_err().to_string();
        assert!(error.contains("logged") && error.contains("not_logged"), "{error}");
    }
}
