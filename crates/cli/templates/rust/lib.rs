//! Counts how often it is asked, and tells.

use aether_script_sdk::prelude::*;

#[derive(Default)]
struct {{type}} {
    asked: u32,
    seconds: f32,
}

impl {{type}} {
    fn ask(&mut self) -> u32 {
        self.asked += 1;
        self.asked
    }
}

impl Script for {{type}} {
    fn on_start(&mut self) {
        info!("{{name}} begins");
    }

    fn on_tick(&mut self, dt: f32) {
        self.seconds += dt;
    }

    fn on_message(&mut self, message: Message<'_>) {
        if message.method == "count" {
            let _ = message.reply(self.ask().to_string().as_bytes());
        }
    }

    // What the next version goes on with. It begins with a number for its layout: raise it when the fields change.
    fn save_state(&mut self) -> Vec<u8> {
        Writer::new(1).u32(self.asked).f32(self.seconds).finish()
    }

    fn restore_state(&mut self, _from_version: u32, state: &[u8]) -> bool {
        let mut read = Reader::new(state);
        let mut restore = || {
            *self = {{type}} { asked: read.u32()?, seconds: read.f32()? };
            Some(())
        };
        state.first() == Some(&1) && restore().is_some()
    }
}

export_script!({{type}});

// The script's own logic, without a world: `cargo test`.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_question_counts() {
        let mut script = {{type}}::default();
        assert_eq!((script.ask(), script.ask()), (1, 2));
    }
}
