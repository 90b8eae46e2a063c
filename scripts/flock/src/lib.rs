//! One script that flies 24 birds over the town: boids, read and written in one call each.

use aether_script_sdk::prelude::*;

const BIRDS: usize = 24;
/// Metres within which birds mind each other.
const SIGHT: f32 = 5.0;
/// Closer than this they part, metres.
const CROWD: f32 = 1.4;
/// Metres a second.
const SLOWEST: f32 = 3.0;
const FASTEST: f32 = 7.0;
/// Metres from its middle that the flock may stray before it turns.
const RANGE: f32 = 18.0;
/// Where the flock flies if the script has no entity of its own.
const MIDDLE: Vec3 = Vec3::new(0.0, 12.0, 0.0);

#[derive(Default)]
struct Flock {
    birds: Vec<EntityId>,
    middle: Option<Vec3>,
    /// Seconds until a bird chirps.
    until_chirp: f32,
    bodies: Vec<Body>,
}

impl Flock {
    /// Replaces birds that are missing, as fast as the allowance lets it.
    fn hatch(&mut self, middle: Vec3) {
        while self.birds.len() < BIRDS {
            let around = || script::random_between(-3.0, 3.0);
            let at = middle + Vec3::new(around(), around(), around());
            match entity::spawn("bird", at) {
                Ok(bird) => self.birds.push(bird),
                // Next tick there is more allowance; any other error will say the same next tick, too.
                Err(_) => return,
            }
        }
    }

    fn chirp(&mut self, dt: f32) {
        self.until_chirp -= dt;
        if self.until_chirp > 0.0 || self.bodies.is_empty() {
            return;
        }
        self.until_chirp = script::random_between(2.0, 6.0);
        let bird = self.bodies[script::random() as usize % self.bodies.len()];
        let pitch = script::random_between(0.8, 1.4);
        let _ = audio::play("chirp", bird.position, audio::Parameters { gain: 0.6, pitch, range: 25.0 });
    }
}

/// Where a bird wants to go: away from the close, along with the near, towards their middle, and home when far.
fn steer(bird: &Body, all: &[Body], middle: Vec3) -> Vec3 {
    let (mut apart, mut heading, mut centre, mut near) = (Vec3::ZERO, Vec3::ZERO, Vec3::ZERO, 0.0);
    for other in all {
        let way = other.position - bird.position;
        let distance_squared = way.dot(way);
        if other.entity == bird.entity || distance_squared > SIGHT * SIGHT {
            continue;
        }
        near += 1.0;
        heading += other.velocity;
        centre += way;
        if distance_squared < CROWD * CROWD {
            apart -= way / distance_squared.max(0.01);
        }
    }
    let mut wish = apart * 4.0;
    if near > 0.0 {
        wish += (heading / near - bird.velocity) * 0.9 + centre / near * 0.6;
    }
    let home = middle - bird.position;
    let stray = home.length() - RANGE;
    if stray > 0.0 {
        wish += home.normalized() * (2.0 + stray);
    }
    // Birds keep their height more than their place.
    wish.y += (middle.y - bird.position.y) * 0.5;
    wish
}

fn fly(bird: &Body, all: &[Body], middle: Vec3, dt: f32) -> Body {
    let velocity = (bird.velocity + steer(bird, all, middle) * dt).limited(FASTEST);
    // A bird that is too slow speeds up, in some direction if it has none.
    let velocity = match velocity.length() {
        speed if speed >= SLOWEST => velocity,
        speed if speed > 0.01 => velocity * (SLOWEST / speed),
        _ => Vec3::new(SLOWEST, 0.0, 0.0),
    };
    Body { velocity, yaw: velocity.yaw(), ..*bird }
}

impl Script for Flock {
    fn on_tick(&mut self, dt: f32) {
        let middle = *self.middle.get_or_insert_with(|| {
            let own = entity::self_entity().and_then(entity::position);
            own.map_or(MIDDLE, |at| Vec3 { y: at.y.max(8.0), ..at })
        });
        self.hatch(middle);

        let mut read = vec![Body::default(); self.birds.len()];
        if entity::read_bodies(&self.birds, &mut read).is_err() {
            return;
        }
        // Somebody may have destroyed a bird: forget it, and hatch another next tick.
        read.retain(|body| body.entity != EntityId::NONE);
        self.birds.clear();
        self.birds.extend(read.iter().map(|body| body.entity));

        self.bodies.clear();
        self.bodies.extend(read.iter().map(|bird| fly(bird, &read, middle, dt)));
        let _ = entity::write_bodies(&self.bodies);
        self.chirp(dt);
    }

    fn on_stop(&mut self) {
        for bird in &self.birds {
            let _ = entity::destroy(*bird);
        }
    }

    fn save_state(&mut self) -> Vec<u8> {
        let start = Writer::new(1).vec3(self.middle.unwrap_or(MIDDLE)).u32(self.birds.len() as u32);
        self.birds.iter().fold(start, |state, bird| state.entity(*bird)).finish()
    }

    fn restore_state(&mut self, _from_version: u32, state: &[u8]) -> bool {
        let mut read = Reader::new(state);
        let mut restore = || {
            self.middle = Some(read.vec3()?);
            let birds = (read.u32()? as usize).min(BIRDS);
            self.birds = (0..birds).map(|_| read.entity()).collect::<Option<_>>()?;
            Some(())
        };
        state.first() == Some(&1) && restore().is_some()
    }
}

export_script!(Flock);

#[cfg(test)]
mod tests {
    use super::*;

    fn bird(id: u64, position: Vec3, velocity: Vec3) -> Body {
        Body { entity: EntityId::from_raw(id), position, velocity, yaw: 0.0 }
    }

    #[test]
    fn a_resting_bird_takes_off() {
        let one = bird(1, MIDDLE, Vec3::ZERO);
        assert!(fly(&one, &[one], MIDDLE, 0.05).velocity.length() >= SLOWEST - 0.01);
    }

    #[test]
    fn a_bird_that_strayed_turns_home() {
        let one = bird(1, MIDDLE + Vec3::new(RANGE + 10.0, 0.0, 0.0), Vec3::new(5.0, 0.0, 0.0));
        assert!(fly(&one, &[one], MIDDLE, 0.05).velocity.x < 5.0);
    }

    #[test]
    fn birds_in_one_place_do_not_make_nan() {
        let two = [bird(1, MIDDLE, Vec3::ZERO), bird(2, MIDDLE, Vec3::ZERO)];
        assert!(fly(&two[0], &two, MIDDLE, 0.05).velocity.length().is_finite());
    }
}
