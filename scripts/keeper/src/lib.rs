//! Counts what it hears of `bell`, in storage, and tells who asks: `rings` is answered with the number. The example of the guide for Rust.

use aether_script_sdk::prelude::*;

/// Where the count is. Storage survives the script, its versions and its world.
const KEY: &str = "rings";

#[derive(Default)]
struct Keeper {
    /// Subscribed in this life? A restored script gets no `on_start`, so it looks in each tick.
    listening: bool,
    /// Questions answered; part of the state.
    answered: u32,
}

/// How often it has rung, as stored.
fn rings() -> Result<u32> {
    let stored = storage::get(KEY)?;
    Ok(stored.and_then(|bytes| Some(u32::from_le_bytes(bytes.try_into().ok()?))).unwrap_or(0))
}

impl Script for Keeper {
    fn on_tick(&mut self, _dt: f32) {
        if !self.listening {
            self.listening = network::subscribe("bell").is_ok();
        }
    }

    fn on_event(&mut self, event: Event<'_>) {
        if let Event::Broadcast { topic: "bell", .. } = event
            && let Err(error) = rings().and_then(|count| storage::set(KEY, &(count + 1).to_le_bytes()))
        {
            info!("a ring is lost: {error}");
        }
    }

    fn on_message(&mut self, message: Message<'_>) {
        if message.method == "rings" {
            let answer = rings().map_or_else(|error| error.to_string(), |count| count.to_string());
            self.answered += 1;
            let _ = message.reply(answer.as_bytes());
        }
    }

    fn save_state(&mut self) -> Vec<u8> {
        Writer::new(1).u32(self.answered).finish()
    }

    fn restore_state(&mut self, _from_version: u32, state: &[u8]) -> bool {
        let mut read = Reader::new(state);
        match (read.version(), read.u32()) {
            (1, Some(answered)) => {
                *self = Keeper { listening: false, answered };
                true
            }
            _ => false,
        }
    }
}

export_script!(Keeper);
