//! Gives every player a body, walks it where the player says, greets and lists who is there.
//!
//! The host tells who comes and goes. Neither is certain (a node may die), and joining may be told again (a world that moved is joined
//! anew). So nothing depends on it: a player of whom nothing is heard for [`PATIENCE`] is gone, and one who is heard without a body gets
//! one. Clients say where they walk whenever
//! that changes, and every few seconds.
//!
//! Players call `walk` with two signed bytes, east and south, 127 is full speed; and `wave`. They are told `you` with their entity.

use aether_script_sdk::players::{self, Presence};
use aether_script_sdk::prelude::*;

/// Metres a second.
const SPEED: f32 = 4.0;
/// Seconds of silence after which a player is gone.
const PATIENCE: f32 = 15.0;
/// Seconds between two steps that are heard.
const STEP_EVERY: f32 = 0.4;
/// How close to something solid an avatar stops, metres.
const REACH: f32 = 0.7;
/// Where the town ends, metres from its middle.
const EDGE: f32 = 30.0;
/// Seconds that the greeting is shown.
const GREETING_FOR: f32 = 8.0;
/// Players with a body at a time.
const AVATARS_MAX: usize = 300;
/// Names that are listed.
const LISTED: usize = 12;
const GREETING: &str = "greeting";
const LIST: &str = "players";

struct Avatar {
    player: PlayerId,
    name: String,
    entity: EntityId,
    /// Where the player wants to go, at most 1 long.
    wish: Vec3,
    /// What its body was told last; `None`: nothing yet in this life.
    velocity: Option<Vec3>,
    silent: f32,
    until_step: f32,
    /// Seconds until the greeting goes; below 0 it is gone.
    greeting: f32,
    /// Still to be told who it is.
    unknown: bool,
}

impl Avatar {
    fn new(player: PlayerId, name: &str) -> Avatar {
        let name = if name.is_empty() { format!("player {}", player.0 % 1000) } else { name.to_owned() };
        Avatar {
            player,
            name,
            entity: EntityId::NONE,
            wish: Vec3::ZERO,
            velocity: None,
            silent: 0.0,
            until_step: 0.0,
            greeting: -1.0,
            unknown: true,
        }
    }

    /// Gives it a body if it has none.
    fn stand(&mut self) -> Result<Vec3> {
        if self.entity != EntityId::NONE {
            match entity::position(self.entity) {
                // Somebody took it away.
                Err(Error::NotFound) => self.entity = EntityId::NONE,
                other => return other,
            }
        }
        let home = home(self.player);
        self.entity = entity::spawn("player", home)?;
        (self.velocity, self.unknown) = (None, true);
        Ok(home)
    }

    /// Tells the player who it is; what is refused now is tried again in the next tick.
    fn introduce(&mut self) -> Result<()> {
        network::send_player(self.player, "you", &self.entity.raw().to_le_bytes())?;
        ui::show(
            self.player,
            GREETING,
            &format!("Welcome, {}! Walk with the arrow keys or WASD, wave with the space bar.", self.name),
        )?;
        self.greeting = GREETING_FOR;
        self.unknown = false;
        Ok(())
    }

    fn tick(&mut self, dt: f32) -> Result<()> {
        let here = self.stand()?;
        if self.unknown {
            self.introduce()?;
        }
        if self.greeting >= 0.0 {
            self.greeting -= dt;
            if self.greeting < 0.0 {
                ui::hide(self.player, GREETING)?;
            }
        }
        let velocity = self.way(here) * SPEED;
        if self.velocity != Some(velocity) {
            physics::set_velocity(self.entity, velocity)?;
            if velocity != Vec3::ZERO {
                entity::set_yaw(self.entity, velocity.yaw())?;
            }
            self.velocity = Some(velocity);
        }
        self.until_step -= dt;
        if velocity != Vec3::ZERO && self.until_step <= 0.0 {
            self.until_step = STEP_EVERY;
            // Feet differ.
            let pitch = 0.9 + 0.2 * (self.player.0 % 8) as f32 / 8.0;
            let _ = audio::play("step", here, audio::Parameters { gain: 0.5, pitch, range: 18.0 });
        }
        Ok(())
    }

    /// Where it may go from here: not out of the town, not into what is solid.
    fn way(&self, here: Vec3) -> Vec3 {
        let mut way = self.wish;
        let outwards = |at: f32, way: f32| at.abs() >= EDGE && at * way > 0.0;
        if outwards(here.x, way.x) {
            way.x = 0.0;
        }
        if outwards(here.z, way.z) {
            way.z = 0.0;
        }
        let free = |way: Vec3| way == Vec3::ZERO || physics::raycast(here, way, REACH, self.entity).is_err();
        // Along a wall, if not through it.
        let along = [way, Vec3 { z: 0.0, ..way }, Vec3 { x: 0.0, ..way }];
        along.into_iter().find(|way| free(*way)).unwrap_or(Vec3::ZERO)
    }
}

/// Where a player comes in: near the quest board, not all in one place.
fn home(player: PlayerId) -> Vec3 {
    let (row, place) = ((player.0 / 8 % 4) as f32, (player.0 % 8) as f32);
    Vec3::new(place * 1.2 - 4.0, 0.9, 6.0 + row * 1.2)
}

/// Two signed bytes as a direction; what else there may be stands still.
fn wish(payload: &[u8]) -> Vec3 {
    let [x, z] = payload else { return Vec3::ZERO };
    let part = |byte: u8| f32::from(byte as i8) / 127.0;
    Vec3::new(part(*x), 0.0, part(*z)).limited(1.0)
}

#[derive(Default)]
struct Avatars {
    all: Vec<Avatar>,
    /// Whether this life has subscribed.
    opened: bool,
    /// Who is there has changed since it was shown.
    changed: bool,
}

impl Avatars {
    /// The player's avatar, a new one if there is none and room for one.
    fn of(&mut self, player: PlayerId, name: &str) -> Option<&mut Avatar> {
        let at = match self.all.iter().position(|avatar| avatar.player == player) {
            Some(at) => at,
            None if self.all.len() >= AVATARS_MAX => return None,
            None => {
                self.changed = true;
                self.all.push(Avatar::new(player, name));
                self.all.len() - 1
            }
        };
        Some(&mut self.all[at])
    }

    fn joined(&mut self, player: PlayerId, name: &str) {
        if let Some(avatar) = self.of(player, name) {
            // A client that joins knows nothing, also if its player was here before.
            (avatar.silent, avatar.unknown) = (0.0, true);
            if !name.is_empty() {
                avatar.name = name.to_owned();
            }
            self.changed = true;
        }
    }

    fn left(&mut self, which: impl Fn(&Avatar) -> bool) {
        let before = self.all.len();
        self.all.retain(|avatar| {
            let gone = which(avatar);
            if gone && avatar.entity != EntityId::NONE {
                let _ = entity::destroy(avatar.entity);
            }
            !gone
        });
        self.changed |= self.all.len() != before;
    }

    fn list(&self) -> String {
        let mut names: Vec<_> = self.all.iter().take(LISTED).map(|avatar| avatar.name.as_str()).collect();
        let more = format!("{} more", self.all.len().saturating_sub(LISTED));
        if self.all.len() > LISTED {
            names.push(&more);
        }
        format!("In town: {}", names.join(", "))
    }
}

impl Script for Avatars {
    fn on_tick(&mut self, dt: f32) {
        if !self.opened {
            self.opened = players::subscribe().is_ok();
        }
        self.all.iter_mut().for_each(|avatar| avatar.silent += dt);
        self.left(|avatar| avatar.silent > PATIENCE);
        for avatar in &mut self.all {
            // What is refused for want of allowance is done in a later tick.
            let _ = avatar.tick(dt);
        }
        if self.changed && !self.all.is_empty() {
            self.changed = ui::show(PlayerId::ALL, LIST, &self.list()).is_err();
        }
    }

    fn on_event(&mut self, event: Event<'_>) {
        match players::presence(&event) {
            Some(Presence::Joined { player, name }) => self.joined(player, name),
            Some(Presence::Left { player }) => self.left(|avatar| avatar.player == player),
            None => {}
        }
    }

    fn on_message(&mut self, message: Message<'_>) {
        let Sender::Player(player) = message.from else { return };
        let Some(avatar) = self.of(player, "") else { return };
        avatar.silent = 0.0;
        match message.method {
            "walk" => avatar.wish = wish(message.payload),
            "wave" => {
                if let Ok(here) = entity::position(avatar.entity) {
                    let _ = audio::play("wave", here, audio::Parameters { range: 40.0, ..Default::default() });
                }
            }
            _ => {}
        }
    }

    fn save_state(&mut self) -> Vec<u8> {
        let mut state = Writer::new(1).u32(self.all.len() as u32);
        for avatar in &self.all {
            state = state.u64(avatar.player.0).entity(avatar.entity).u8(avatar.name.len().min(255) as u8);
            state = avatar.name.bytes().take(255).fold(state, Writer::u8);
        }
        state.finish()
    }

    fn restore_state(&mut self, _from_version: u32, state: &[u8]) -> bool {
        let mut read = Reader::new(state);
        let mut restore = || {
            for _ in 0..read.u32()?.min(AVATARS_MAX as u32) {
                let (player, entity) = (PlayerId(read.u64()?), read.entity()?);
                let mut name = Vec::new();
                for _ in 0..read.u8()? {
                    name.push(read.u8()?);
                }
                let name = String::from_utf8(name).unwrap_or_default();
                self.all.push(Avatar { entity, ..Avatar::new(player, &name) });
            }
            Some(())
        };
        self.changed = true;
        state.first() == Some(&1) && restore().is_some()
    }
}

export_script!(Avatars);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_faster_than_the_others_by_going_askew_or_by_lying() {
        for payload in [[127u8, 127], [128, 128], [127, 0], [0, 129]] {
            assert!(wish(&payload).length() <= 1.0001, "{payload:?}");
        }
        assert_eq!((wish(&[]), wish(&[1, 2, 3])), (Vec3::ZERO, Vec3::ZERO));
        assert!(wish(&[0x81, 0]).x < -0.99);
    }

    #[test]
    fn who_is_there_is_there_in_the_next_life_and_has_to_be_heard_of_again() {
        let mut old = Avatars::default();
        old.joined(PlayerId(7), "Ada");
        old.joined(PlayerId(8), "Bob");
        old.joined(PlayerId(7), "Ada L.");
        assert_eq!(old.list(), "In town: Ada L., Bob");
        let mut new = Avatars::default();
        assert!(new.restore_state(1, &old.save_state()));
        assert_eq!(new.list(), old.list());
        assert!(new.all.iter().all(|avatar| avatar.unknown));
        new.left(|avatar| avatar.player == PlayerId(7));
        assert_eq!(new.list(), "In town: Bob");
        assert!(!Avatars::default().restore_state(1, &[1, 9]) && !Avatars::default().restore_state(1, &[]));
    }

    #[test]
    fn the_town_takes_so_many_and_no_more() {
        let mut avatars = Avatars::default();
        (1..1_000).for_each(|player| avatars.joined(PlayerId(player), ""));
        assert_eq!(avatars.all.len(), AVATARS_MAX);
        assert!(avatars.list().ends_with("288 more"));
    }
}
