//! Does what a load test tells it: takes players' input, calls other scripts, traps.
//!
//! `input` is counted and shown to its player, and written down once a second; `call` with `WORLD/SCRIPT` makes a call there, which
//! `answer` answers; `trap` ends it. All of it is counted, the counts are its state, and `counts` tells them to a player.

use aether_script_sdk::prelude::*;

/// Seconds between two writes of the counts.
const WRITE_EVERY: f32 = 1.0;

#[derive(Debug, Default, PartialEq)]
struct Drill {
    inputs: u32,
    calls: u32,
    answers: u32,
    /// Calls that could not be made, or that nobody answered.
    refused: u32,
    since_write: f32,
    /// Counted since they were last written.
    fresh: bool,
}

impl Drill {
    fn counts(&self) -> String {
        format!("inputs {} calls {} answers {} refused {}", self.inputs, self.calls, self.answers, self.refused)
    }

    fn input(&mut self, player: PlayerId) {
        self.inputs += 1;
        self.fresh = true;
        // A player who is gone is nobody's trouble.
        let _ = network::send_player(player, "seen", &self.inputs.to_le_bytes());
    }

    fn call(&mut self, target: &str) {
        match network::rpc(target, "answer", b"") {
            Ok(_) => self.calls += 1,
            Err(_) => self.refused += 1,
        }
    }
}

impl Script for Drill {
    fn on_tick(&mut self, dt: f32) {
        self.since_write += dt;
        if self.fresh && self.since_write >= WRITE_EVERY {
            (self.since_write, self.fresh) = (0.0, false);
            // What cannot be written now is with the next counts.
            self.fresh = storage::set("counts", self.counts().as_bytes()).is_err();
        }
    }

    fn on_message(&mut self, message: Message<'_>) {
        match (message.method, message.from) {
            ("", _) => self.answers += 1,
            ("input", Sender::Player(player)) => self.input(player),
            ("call", _) => self.call(message.text()),
            ("answer", _) => drop(message.reply(b"")),
            ("counts", Sender::Player(player)) => drop(network::send_player(player, "counts", self.counts().as_bytes())),
            ("trap", _) => panic!("as the load test wants"),
            _ => {}
        }
    }

    fn on_event(&mut self, event: Event<'_>) {
        if matches!(event, Event::Unanswered { .. }) {
            self.refused += 1;
        }
    }

    fn save_state(&mut self) -> Vec<u8> {
        Writer::new(1).u32(self.inputs).u32(self.calls).u32(self.answers).u32(self.refused).finish()
    }

    fn restore_state(&mut self, _from_version: u32, state: &[u8]) -> bool {
        let mut read = Reader::new(state);
        let mut restore = || {
            let (inputs, calls) = (read.u32()?, read.u32()?);
            *self = Drill { inputs, calls, answers: read.u32()?, refused: read.u32()?, ..Drill::default() };
            Some(())
        };
        state.first() == Some(&1) && restore().is_some()
    }
}

export_script!(Drill);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_counted_is_what_the_next_life_goes_on_with() {
        let mut drill = Drill { inputs: 3, calls: 2, answers: 1, refused: 4, ..Drill::default() };
        let state = drill.save_state();
        let mut next = Drill::default();
        assert!(next.restore_state(1, &state));
        assert_eq!(next, drill);
        assert!(!next.restore_state(1, &state[..5]));
    }
}
