//! What an author reads in `aether dev`: log lines, ends with their traces, versions that come to live or are refused, what a tick costs.
//!
//! Called in each look; everything comes from the node's events and statuses. Not here: what is done (`dev`), how a line looks (`report`).

use super::{FUEL_EVERY, Session, millis};
use crate::author::project::{head_and_trace, trace_lines};
use crate::author::report::Tone;
use crate::script::level;
use aether_cluster::{NodeEvent, RegistryError};
use aether_scripting::{Symbols, Trace, Version};
use aether_types::counted;
use std::collections::HashMap;
use std::time::{Duration, Instant};

impl Session {
    fn symbols_of(&self, version: Version) -> Option<&Symbols> {
        let versions = self.local.as_ref()?.node.versions().unwrap_or_default();
        let name = self.project.name;
        let digest = versions.into_iter().find(|info| info.script == name && info.version == version).map(|info| info.source);
        // One that is not kept is the newest: it was just rolled back.
        let found = digest.and_then(|digest| self.symbols.iter().find(|(other, _)| *other == digest));
        found.or(self.symbols.last().filter(|_| digest.is_none())).map(|(_, symbols)| &**symbols)
    }

    pub(super) fn show_events(&mut self) {
        let Some(local) = &self.local else { return };
        let (events, seen) = local.node.events().since(self.seen);
        self.seen = seen;
        if events.is_empty() {
            return;
        }
        let name = self.project.name.to_string();
        let ours = self.names();
        let is_ours = |world: &str, script: &str| ours.get(script).is_some_and(|worlds| worlds.iter().any(|w| w == world));
        for event in events {
            match event {
                NodeEvent::Log { world, script, level: l, text } if self.all || is_ours(&world, &script) => {
                    let tone = if l == 0 {
                        Tone::Bad
                    } else if l == 1 {
                        Tone::Odd
                    } else {
                        Tone::Plain
                    };
                    self.report.line(tone, level(l), &format!("{world}/{script}: {text}"));
                }
                NodeEvent::Log { .. } => {}
                NodeEvent::ScriptEnded { world, script, version, cause, parked, again, trace } => {
                    let follows = match (parked, again) {
                        (true, _) => "parked: it waits for the next version",
                        (_, true) => "comes back",
                        _ => "it is left alone",
                    };
                    self.report.line(Tone::Bad, "ended", &format!("{world}/{script} v{version} {cause}; {follows}"));
                    if is_ours(&world, &script) {
                        self.show_trace(version, trace.as_deref());
                    }
                }
                NodeEvent::Live { script, version, worlds, .. } if script == name => self.show_live(version, worlds),
                // How it ends is said when it has.
                NodeEvent::Reload { script, .. } | NodeEvent::Live { script, .. } if script == name => {}
                event => self.report.line(Tone::Odd, "node", &event.to_string()),
            }
        }
    }

    /// The names of this script in each world, by name.
    fn names(&self) -> HashMap<String, Vec<String>> {
        let mut names: HashMap<String, Vec<String>> = HashMap::new();
        let worlds = self.local.as_ref().map(|local| local.node.status().worlds).unwrap_or_default();
        for world in worlds {
            for script in world.scripts.iter().filter(|script| script.script == self.project.name) {
                names.entry(script.name.clone()).or_default().push(world.name.clone());
            }
        }
        // Before the first status there is nothing to look it up in.
        if names.is_empty() {
            names.insert(self.project.name.to_string(), vec!["dev".to_owned()]);
        }
        names
    }

    fn show_trace(&mut self, version: Version, trace: Option<&Trace>) {
        let Some(trace) = trace else { return };
        let lines = match self.symbols_of(version) {
            Some(symbols) => trace_lines(trace, symbols, &self.project.dir),
            None => vec![format!("in {trace}")],
        };
        if lines == self.shown {
            return self.report.line(Tone::Bad, "", "where it ended before");
        }
        lines.iter().for_each(|line| self.report.line(Tone::Bad, "", line));
        self.shown = lines;
    }

    fn show_live(&mut self, version: Version, worlds: usize) {
        let Some(reload) = &mut self.reload else { return };
        reload.live = true;
        self.current = Some(version);
        let (worlds, ms) = (counted(worlds, "world"), millis(reload.saved.elapsed().saturating_sub(reload.build_took)));
        let build = match reload.build_took {
            Duration::ZERO => String::new(),
            took => format!(", the build's {} ms not counted", took.as_millis()),
        };
        self.report.line(Tone::Good, "live", &format!("v{version} in {worlds}, {ms} ms from save to live{build}"));
        self.fuel_shown = None;
    }

    pub(super) fn show_refused(&mut self, error: &RegistryError) {
        let text = match std::error::Error::source(error) {
            Some(source) if !error.to_string().contains(&source.to_string()) => format!("{error}: {source}"),
            _ => error.to_string(),
        };
        let log = if let RegistryError::RolledBack { log, .. } = error { log.as_slice() } else { &[] };
        // What ended in its rehearsal says where, in the words of the module.
        let (head, trace) = head_and_trace(&text);
        match self.symbols.last() {
            Some((_, symbols)) if !trace.frames.is_empty() => {
                let lines = trace_lines(&trace, symbols, &self.project.dir);
                self.report.line(Tone::Bad, "refused", head);
                lines.iter().for_each(|line| self.report.line(Tone::Bad, "", line));
            }
            _ => self.report.line(Tone::Bad, "refused", &text),
        }
        log.iter().for_each(|line| self.report.line(Tone::Bad, "", &format!("it logged {line}")));
    }

    /// What a tick costs, once a version runs and then now and then.
    pub(super) fn show_fuel(&mut self) {
        let Some(local) = &self.local else { return };
        if self.fuel_shown.is_some_and(|(at, ..)| at.elapsed() < FUEL_EVERY) {
            return;
        }
        let (mut fuel, mut turns, mut version, mut memory, mut cost) = (0, 0, Version(0), 0, 0.0_f32);
        for world in local.node.status().worlds {
            for script in world.scripts.iter().filter(|script| script.script == self.project.name) {
                (fuel, turns, version) = (fuel + script.fuel, turns + u64::from(script.turns), script.version);
                (memory, cost) = (memory.max(script.memory_bytes), cost.max(script.cost_ns));
            }
        }
        // A status is up to a second old.
        if turns == 0 || self.reload.is_some() || Some(version) != self.current {
            return;
        }
        let each = fuel / turns;
        let news = self.fuel_shown.is_none_or(|(_, before)| before.abs_diff(each) * 10 > before);
        if news {
            let limit = self.project.manifest.limits.fuel;
            let text = format!("v{version}: {each} a tick of {limit}, {:.1} us, {} KiB", cost * 1e-3, memory >> 10);
            self.report.line(Tone::Faint, "fuel", &text);
        }
        self.fuel_shown = Some((Instant::now(), each));
    }
}
