//! A guard that walks a route, greets players and chases thieves.
//!
//! It looks around five times a second and decides; every tick it only walks. The route is the component `route` of its prefab:
//! places `x,z` relative to where it started.

use aether_script_sdk::prelude::*;

/// Metres a second.
const WALK: f32 = 1.6;
const RUN: f32 = 4.2;
/// How far it sees, metres.
const SIGHT: f32 = 14.0;
/// How close is caught, metres.
const REACH: f32 = 1.2;
/// Seconds between two looks.
const LOOK_EVERY: f32 = 0.2;
/// Seconds without sight of the thief after which it gives up.
const PATIENCE: f32 = 3.0;
/// Seconds between two greetings.
const GREET_EVERY: f32 = 20.0;

/// What the guard is about.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Duty {
    /// To the place of the route with this number.
    Walk,
    /// After a thief, last seen there, `unseen` seconds ago.
    Chase { thief: EntityId, last_seen: Vec3, unseen: f32 },
}

struct Guard {
    me: EntityId,
    /// Where it started; the route is relative to it.
    post: Option<Vec3>,
    route: Vec<Vec3>,
    next: u32,
    duty: Duty,
    until_look: f32,
    until_greeting: f32,
    arrests: u32,
}

impl Default for Guard {
    fn default() -> Guard {
        Guard {
            me: EntityId::NONE,
            post: None,
            route: Vec::new(),
            next: 0,
            duty: Duty::Walk,
            until_look: 0.0,
            until_greeting: 0.0,
            arrests: 0,
        }
    }
}

/// `0,0 12,0 12,10` as offsets in whole metres. What cannot be read is left out.
fn parse_route(text: &str) -> Vec<Vec3> {
    let place = |pair: &str| {
        let (x, z) = pair.split_once(',')?;
        // Whole numbers: reading fractions would double the script's size.
        let metres = |text: &str| Some(f32::from(text.parse::<i16>().ok()?));
        Some(Vec3::new(metres(x)?, 0.0, metres(z)?))
    };
    text.split_whitespace().filter_map(place).collect()
}

impl Guard {
    /// Finds out who and where it is; nothing to do without a body.
    fn wake(&mut self) -> Option<Vec3> {
        if self.me == EntityId::NONE {
            self.me = entity::self_entity().ok()?;
        }
        let here = entity::position(self.me).ok()?;
        self.post.get_or_insert(here);
        if self.route.is_empty() {
            let text = entity::component_text(self.me, "route").unwrap_or_default();
            self.route = parse_route(&text);
            if self.route.is_empty() {
                self.route = parse_route("0,0 10,0 10,10 0,10");
            }
        }
        Some(here)
    }

    /// Where `other` is, if nothing solid stands between it and the guard's eyes.
    fn sees(&self, eyes: Vec3, other: EntityId) -> Option<Vec3> {
        let there = entity::position(other).ok()?;
        match physics::raycast(eyes, there - eyes, SIGHT, self.me) {
            Ok(hit) if hit.entity == other => Some(there),
            // Nothing solid on the way, not even it: it has no body to hit.
            Err(Error::NotFound) => Some(there),
            _ => None,
        }
    }

    fn look(&mut self, here: Vec3) {
        let eyes = here + Vec3::UP * 0.6;
        let mut near = [EntityId::NONE; 8];
        let found = entity::query_radius_into(here, SIGHT, "thief", &mut near).unwrap_or(0).min(near.len());
        // One in jail has been caught already.
        let free = |thief: &&EntityId| entity::component(**thief, "jailed").is_err();
        let seen = near[..found].iter().filter(free).find_map(|&thief| Some((thief, self.sees(eyes, thief)?)));
        if let Some((thief, last_seen)) = seen {
            if !matches!(self.duty, Duty::Chase { .. }) {
                let _ = audio::play("whistle", here, audio::Parameters { range: 40.0, ..Default::default() });
            }
            self.duty = Duty::Chase { thief, last_seen, unseen: 0.0 };
        } else if self.until_greeting <= 0.0
            && let Ok(player) = entity::nearest(here, SIGHT / 2.0, "player")
            && self.sees(eyes, player).is_some()
        {
            self.until_greeting = GREET_EVERY;
            let _ = audio::play("greeting", here, audio::Parameters::default());
        }
    }

    fn arrest(&mut self, thief: EntityId, here: Vec3) {
        self.arrests += 1;
        info!("caught a thief, {} so far", self.arrests);
        let _ = audio::play("gotcha", here, audio::Parameters::default());
        // The thief listens for its own id.
        let _ = network::broadcast("arrest", &thief.raw().to_le_bytes());
        self.duty = Duty::Walk;
        // Long enough for the thief to hear of it before the next look.
        self.until_look = 1.0;
    }

    /// Walks; true when it is there.
    fn go(&self, here: Vec3, to: Vec3, speed: f32) -> bool {
        let way = (to - here).flat();
        let there = way.length() < 0.3;
        let velocity = if there { Vec3::ZERO } else { way.normalized() * speed };
        let _ = physics::set_velocity(self.me, velocity);
        if !there {
            let _ = entity::set_yaw(self.me, way.yaw());
        }
        there
    }
}

impl Script for Guard {
    fn on_tick(&mut self, dt: f32) {
        let Some(here) = self.wake() else { return };
        self.until_greeting -= dt;
        self.until_look -= dt;
        if self.until_look <= 0.0 {
            self.until_look = LOOK_EVERY;
            self.look(here);
        }
        match self.duty {
            Duty::Walk => {
                let post = self.post.unwrap_or(here);
                if self.go(here, post + self.route[self.next as usize % self.route.len()], WALK) {
                    self.next = (self.next + 1) % self.route.len() as u32;
                }
            }
            Duty::Chase { thief, last_seen, unseen } => {
                let caught = entity::position(thief).is_ok_and(|there| (there - here).flat().length() < REACH);
                if caught {
                    self.arrest(thief, here);
                } else if unseen > PATIENCE || self.go(here, last_seen, RUN) && unseen > LOOK_EVERY * 2.0 {
                    self.duty = Duty::Walk;
                } else {
                    self.duty = Duty::Chase { thief, last_seen, unseen: unseen + dt };
                }
            }
        }
    }

    fn on_stop(&mut self) {
        let _ = physics::set_velocity(self.me, Vec3::ZERO);
    }

    fn save_state(&mut self) -> Vec<u8> {
        let Some(post) = self.post else { return Vec::new() };
        Writer::new(1).vec3(post).u32(self.next).u32(self.arrests).finish()
    }

    fn restore_state(&mut self, _from_version: u32, state: &[u8]) -> bool {
        let mut read = Reader::new(state);
        let mut restore = || {
            self.post = Some(read.vec3()?);
            self.next = read.u32()?;
            self.arrests = read.u32()?;
            Some(())
        };
        state.is_empty() || state[0] == 1 && restore().is_some()
    }
}

export_script!(Guard);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_with_a_typing_error_keeps_the_rest() {
        assert_eq!(parse_route("1,2 x,3 4,5"), [Vec3::new(1.0, 0.0, 2.0), Vec3::new(4.0, 0.0, 5.0)]);
        assert!(parse_route("").is_empty());
    }

    #[test]
    fn a_saved_guard_goes_on_where_it_was() {
        let post = Some(Vec3::new(1.0, 2.0, 3.0));
        let mut old = Guard { post, next: 2, arrests: 5, ..Guard::default() };
        let mut new = Guard::default();
        assert!(new.restore_state(1, &old.save_state()));
        assert_eq!((new.post, new.next, new.arrests), (post, 2, 5));
        assert!(!new.restore_state(1, &[1, 2]));
        assert!(!new.restore_state(1, &[9; 40]));
    }
}
