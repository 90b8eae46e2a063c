//! The town's quest board: counts what the town does and shows how far each quest is.
//!
//! A quest is a topic, perhaps with how its payload begins, and how often it must happen. Progress is in storage, so it outlives
//! the script; writes and UI commands are made at most once a second, however busy the town is.

use aether_script_sdk::prelude::*;

/// Seconds between writes and redraws.
const SETTLE_EVERY: f32 = 1.0;
/// Seconds after which the tracker is shown again, for those who came later.
const SHOW_EVERY: f32 = 15.0;
const TRACKER: &str = "quest-tracker";

struct Quest {
    title: &'static str,
    topic: &'static str,
    /// How the payload must begin.
    payload: &'static str,
    /// How often it must happen for level 1; level 2 asks twice that.
    goal: u32,
}

const QUESTS: [Quest; 4] = [
    Quest { title: "Gatekeeper: see the gate open", topic: "door", payload: "open", goal: 5 },
    Quest { title: "Drenched: sit out the rain", topic: "weather", payload: "rain", goal: 3 },
    Quest { title: "Justice: see a thief arrested", topic: "arrest", payload: "", goal: 2 },
    Quest { title: "Good trade: see the shop sold out", topic: "market", payload: "sold-out", goal: 2 },
];

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Progress {
    done: u32,
    level: u32,
    /// Counted, not yet stored.
    fresh: bool,
}

impl Progress {
    /// One more; true if that completes the level.
    fn advance(&mut self, goal: u32) -> bool {
        self.done += 1;
        self.fresh = true;
        let complete = self.done >= goal * (self.level + 1);
        if complete {
            self.level += 1;
            self.done = 0;
        }
        complete
    }

    fn to_text(self) -> String {
        format!("{} {}", self.level, self.done)
    }

    fn from_text(text: &str) -> Option<Progress> {
        let (level, done) = text.split_once(' ')?;
        Some(Progress { level: level.parse().ok()?, done: done.parse().ok()?, fresh: false })
    }
}

struct Board {
    progress: [Progress; QUESTS.len()],
    /// Whether this life of the script has subscribed and read the storage.
    opened: bool,
    dirty: bool,
    until_settle: f32,
    until_show: f32,
}

impl Default for Board {
    fn default() -> Board {
        Board { progress: [Progress::default(); QUESTS.len()], opened: false, dirty: true, until_settle: 0.0, until_show: 0.0 }
    }
}

fn key(quest: &Quest) -> String {
    format!("progress/{}", quest.topic)
}

impl Board {
    /// In the first tick rather than in `on_start`, which a restored script does not get.
    fn open(&mut self) -> Result<()> {
        for (quest, progress) in QUESTS.iter().zip(&mut self.progress) {
            network::subscribe(quest.topic)?;
            let kept = storage::get(&key(quest))?.and_then(|bytes| Progress::from_text(str::from_utf8(&bytes).ok()?));
            // What the last life counted and did not get to store is newer than the storage.
            if !progress.fresh {
                *progress = kept.unwrap_or_default();
            }
        }
        self.opened = true;
        Ok(())
    }

    fn text(&self) -> String {
        let line = |(quest, p): (&Quest, &Progress)| {
            format!("{} ({}/{}, level {})", quest.title, p.done, quest.goal * (p.level + 1), p.level + 1)
        };
        QUESTS.iter().zip(&self.progress).map(line).collect::<Vec<_>>().join("\n")
    }

    /// Stores what was counted, and redraws. What fails is tried again a second later.
    fn settle(&mut self) -> Result<()> {
        for (quest, progress) in QUESTS.iter().zip(&mut self.progress) {
            if progress.fresh {
                storage::set(&key(quest), progress.to_text().as_bytes())?;
                progress.fresh = false;
            }
        }
        let text = self.text();
        if self.until_show <= 0.0 {
            ui::show(PlayerId::ALL, TRACKER, &text)?;
            self.until_show = SHOW_EVERY;
        } else if self.dirty {
            ui::set_text(PlayerId::ALL, TRACKER, &text)?;
        }
        self.dirty = false;
        Ok(())
    }
}

impl Script for Board {
    fn on_tick(&mut self, dt: f32) {
        self.until_settle -= dt;
        self.until_show -= dt;
        if self.until_settle > 0.0 {
            return;
        }
        self.until_settle = SETTLE_EVERY;
        let outcome = if self.opened { Ok(()) } else { self.open() };
        if let Err(error) = outcome.and_then(|()| self.settle()) {
            info!("the board waits: {error}");
        }
    }

    fn on_event(&mut self, event: Event<'_>) {
        let Event::Broadcast { topic, payload, .. } = event else { return };
        for (quest, progress) in QUESTS.iter().zip(&mut self.progress) {
            if quest.topic != topic || !payload.starts_with(quest.payload.as_bytes()) {
                continue;
            }
            self.dirty = true;
            if progress.advance(quest.goal) {
                info!("done: {}, level {}", quest.title, progress.level);
                let _ = network::send_player(PlayerId::ALL, "quest-done", quest.title.as_bytes());
            }
        }
    }

    /// Players ask for the board's text.
    fn on_message(&mut self, message: Message<'_>) {
        if !message.is_answer() {
            let _ = message.reply(self.text().as_bytes());
        }
    }

    fn on_stop(&mut self) {
        let _ = self.settle();
        let _ = ui::hide(PlayerId::ALL, TRACKER);
    }

    fn save_state(&mut self) -> Vec<u8> {
        let add = |state: Writer, p: &Progress| state.u8(p.fresh.into()).u32(p.level).u32(p.done);
        self.progress.iter().fold(Writer::new(1), add).finish()
    }

    fn restore_state(&mut self, _from_version: u32, state: &[u8]) -> bool {
        let mut read = Reader::new(state);
        let mut restore = || {
            for progress in &mut self.progress {
                *progress = Progress { fresh: read.u8()? == 1, level: read.u32()?, done: read.u32()? };
            }
            Some(())
        };
        state.first() == Some(&1) && restore().is_some()
    }
}

export_script!(Board);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_asks_for_more() {
        let mut p = Progress::default();
        assert!(!p.advance(2));
        assert!(p.advance(2));
        assert_eq!((p.level, p.done), (1, 0));
        assert_eq!((0..4).map(|_| p.advance(2)).collect::<Vec<_>>(), [false, false, false, true]);
    }

    #[test]
    fn what_was_counted_and_not_stored_outlives_a_reload() {
        let (mut old, mut new) = (Board::default(), Board::default());
        old.on_event(Event::Broadcast { from: 1, topic: "door", payload: b"open" });
        assert!(new.restore_state(1, &old.save_state()));
        assert_eq!(new.progress[0], Progress { done: 1, level: 0, fresh: true });
    }

    #[test]
    fn progress_reads_back_what_it_wrote() {
        let p = Progress { done: 3, level: 2, fresh: false };
        assert_eq!(Progress::from_text(&p.to_text()), Some(p));
        assert_eq!(Progress::from_text("junk"), None);
    }
}
