//! What players are shown of a world: all of it once, then what each tick changed.
//!
//! [`Lookout`] compares the world with what it saw a tick before; it costs nothing as long as nobody watches. [`Show`] is what a
//! gateway gets, in the order of ticks and not before it is durable. Places are in steps of [`STEP`] metres: what moves less has not
//! moved. Not here: who gets it (`audience`), how clients are told (the gateway's protocol).

use aether_scripting::output::{ClientCommand, Standing};
use aether_scripting::{EntityState, Host, Vec3};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Metres: a 512th, exact in binary. A world is at most 8,192 metres in every direction, so a place fits into 24 bits.
pub const STEP: f32 = 1.0 / 512.0;

/// The largest number of a place.
const PLACE_MAX: f32 = 8_388_607.0;

/// Where an entity is and looks, in steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pose {
    /// East.
    pub x: i32,
    /// Up.
    pub y: i32,
    /// South.
    pub z: i32,
    /// About the vertical axis, in 65,536ths of a turn.
    pub yaw: u16,
}

impl Pose {
    fn of(position: Vec3, yaw: f32) -> Pose {
        // What is no number becomes 0, what is too large the most: casts saturate.
        let steps = |metres: f32| (metres / STEP).round().clamp(-PLACE_MAX, PLACE_MAX) as i32;
        let turns = yaw / std::f32::consts::TAU;
        let yaw = ((turns - turns.floor()) * 65_536.0) as u32 as u16;
        Pose { x: steps(position.x), y: steps(position.y), z: steps(position.z), yaw }
    }
}

/// An entity that was not there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// Its number as scripts know it.
    pub id: u64,
    /// Its number in what follows, until it is gone.
    pub slot: u32,
    /// Its kind's number.
    pub kind: u16,
    /// Where it is.
    pub pose: Pose,
}

/// What changed, in the order in which it is to be carried out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Kinds that were not named before.
    pub kinds: Vec<(u16, String)>,
    /// Slots whose entity is gone.
    pub gone: Vec<u32>,
    /// Entities that were not there.
    pub created: Vec<Created>,
    /// Slots whose entity is elsewhere.
    pub moved: Vec<(u32, Pose)>,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.created.is_empty() && self.moved.is_empty()
    }
}

/// What a gateway gets of a world.
#[derive(Debug, Clone, PartialEq)]
pub enum Show {
    /// A tick has become durable.
    Tick {
        /// Which.
        tick: u64,
        /// Whether `changes` is the whole world: what was known before is to be forgotten. The first is, and so is the first after
        /// something was missed or the world was started again.
        whole: bool,
        /// What changed.
        changes: Arc<Changes>,
        /// To players, in the order they were made. Of the whole world: what makes all that stands comes first.
        commands: Arc<[ClientCommand]>,
    },
    /// A player whom this gateway let in has come in by another.
    Taken {
        /// Who.
        player: u64,
    },
}

/// What one tick has for those who watch.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct View {
    /// What changed since the tick before; `None`: nobody watched then.
    pub changes: Option<Arc<Changes>>,
    /// The whole, for those who have just come.
    pub whole: Option<Arc<Changes>>,
    /// With it, the commands that make what stands.
    pub standing: Vec<ClientCommand>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// 0: nobody is in this slot.
    id: u64,
    kind: u16,
    pose: Pose,
    /// The look that saw it last.
    seen: u64,
}

/// What a world looked like, by slot.
#[derive(Debug, Default)]
struct Shadow {
    known: Vec<Known>,
    kinds: Vec<bool>,
    looks: u64,
}

/// See the file.
#[derive(Debug, Default)]
pub(crate) struct Lookout(Option<Box<Shadow>>);

impl Lookout {
    /// Nobody watches: forget.
    pub fn rest(&mut self) {
        self.0 = None;
    }

    /// Look at the world at the end of a tick. `arrivals`: somebody is there who has seen nothing yet.
    pub fn look(&mut self, host: &dyn Host, arrivals: bool) -> Option<View> {
        let first = self.0.is_none();
        let shadow = self.0.get_or_insert_default();
        let changes = shadow.compare(host);
        let whole = (first || arrivals).then(|| Arc::new(shadow.whole(host)));
        let changes = (!first).then(|| Arc::new(changes));
        // A quiet tick of a quiet world is not told.
        let told = whole.is_some() || changes.as_ref().is_some_and(|changes| !changes.is_empty());
        let standing = host.standing().filter(|_| whole.is_some()).map(Standing::commands).unwrap_or_default();
        told.then_some(View { changes, whole, standing })
    }
}

impl Shadow {
    fn compare(&mut self, host: &dyn Host) -> Changes {
        self.looks += 1;
        let mut changes = Changes::default();
        let looks = self.looks;
        host.look(&mut |EntityState { id, slot, kind, position, yaw }| {
            let at = slot as usize;
            if self.known.len() <= at {
                self.known.resize(at + 1, Known::default());
            }
            let known = &mut self.known[at];
            let pose = Pose::of(position, yaw);
            if known.id == id.0 {
                if known.pose != pose {
                    changes.moved.push((slot, pose));
                }
            } else {
                if known.id != 0 {
                    changes.gone.push(slot);
                }
                changes.created.push(Created { id: id.0, slot, kind, pose });
            }
            *known = Known { id: id.0, kind, pose, seen: looks };
        });
        for (slot, known) in self.known.iter_mut().enumerate() {
            if known.id != 0 && known.seen != looks {
                known.id = 0;
                changes.gone.push(slot as u32);
            }
        }
        for created in &changes.created {
            let kind = usize::from(created.kind);
            if self.kinds.len() <= kind {
                self.kinds.resize(kind + 1, false);
            }
            if !std::mem::replace(&mut self.kinds[kind], true) {
                changes.kinds.push((created.kind, host.kind_name(created.kind).to_owned()));
            }
        }
        changes
    }

    fn whole(&self, host: &dyn Host) -> Changes {
        let there = self.known.iter().enumerate().filter(|(_, known)| known.id != 0);
        let created = there.map(|(slot, known)| Created { id: known.id, slot: slot as u32, kind: known.kind, pose: known.pose });
        let kinds = (0..self.kinds.len() as u16).filter(|kind| self.kinds[usize::from(*kind)]);
        Changes {
            kinds: kinds.map(|kind| (kind, host.kind_name(kind).to_owned())).collect(),
            created: created.collect(),
            ..Changes::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_engine::{Engine, EngineConfig, PrefabSet};
    use aether_scripting::{Caller, EntityApi, EntityId, InstanceId, PrefabId};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const PREFABS: &str = "[[prefab]]\nname = \"bird\"\nkind = \"bird\"\nbody = \"none\"\n\
                           [[prefab]]\nname = \"crate\"\nkind = \"crate\"\nbody = \"none\"\n";

    fn engine() -> Engine {
        let prefabs = Arc::new(PrefabSet::parse(PREFABS).unwrap());
        let mut engine = Engine::new(EngineConfig { prefabs, ..EngineConfig::default() }, []);
        let caller = Caller {
            instance: InstanceId(1),
            name: "keeper".into(),
            entity_kinds: vec!["*".to_owned()],
            storage_namespace: None,
        };
        engine.add_script(caller, None).unwrap();
        engine.enter(InstanceId(1));
        engine
    }

    /// What a client knows that carries out what it is told.
    fn follow(client: &mut BTreeMap<u32, (u64, u16, Pose)>, changes: &Changes) {
        for slot in &changes.gone {
            assert!(client.remove(slot).is_some(), "who goes was there");
        }
        for Created { id, slot, kind, pose } in &changes.created {
            assert!(client.insert(*slot, (*id, *kind, *pose)).is_none(), "who comes was not there");
        }
        for (slot, pose) in &changes.moved {
            client.get_mut(slot).expect("who moves is there").2 = *pose;
        }
    }

    proptest! {
        #[test]
        fn who_follows_the_changes_knows_what_one_who_looks_at_all_of_it_knows(
            steps in prop::collection::vec((0..4u8, any::<prop::sample::Index>(), -100.0..100.0f32), 1..80),
        ) {
            let (mut engine, mut lookout) = (engine(), Lookout::default());
            let mut client = BTreeMap::new();
            let mut ids: Vec<EntityId> = Vec::new();
            follow(&mut client, &lookout.look(&engine, true).unwrap().whole.unwrap());
            for (what, which, at) in steps {
                let place = Vec3::new(at, 0.0, -at);
                match what {
                    0 => ids.push(engine.spawn_entity_at(PrefabId(u32::from(at > 0.0)), place).unwrap()),
                    1 if !ids.is_empty() => engine.set_position(ids[which.index(ids.len())], place).unwrap(),
                    2 if !ids.is_empty() => engine.destroy_entity(ids.swap_remove(which.index(ids.len()))).unwrap(),
                    // A quiet tick, or several things in one.
                    _ => {}
                }
                if what != 3
                    && let Some(view) = lookout.look(&engine, false)
                {
                    follow(&mut client, &view.changes.unwrap());
                }
            }
            lookout.look(&engine, false).inspect(|view| follow(&mut client, view.changes.as_ref().unwrap()));
            let mut whole = BTreeMap::new();
            follow(&mut whole, &lookout.look(&engine, true).unwrap().whole.unwrap());
            prop_assert_eq!(client, whole);
        }

        #[test]
        fn a_pose_is_where_the_entity_is(x in -8_192.0..8_192.0f32, yaw in -20.0..20.0f32) {
            let pose = Pose::of(Vec3::new(x, 0.0, 0.0), yaw);
            prop_assert!((pose.x as f32 * STEP - x).abs() <= STEP);
            let turn = f32::from(pose.yaw) / 65_536.0 * std::f32::consts::TAU;
            prop_assert!((turn.sin() - yaw.sin()).abs() < 1e-3 && (turn.cos() - yaw.cos()).abs() < 1e-3);
        }
    }

    #[test]
    fn a_kind_is_named_once_and_a_quiet_tick_says_nothing() {
        let (mut engine, mut lookout) = (engine(), Lookout::default());
        assert!(lookout.look(&engine, true).unwrap().whole.unwrap().is_empty());
        engine.spawn_entity_at(PrefabId(0), Vec3::ZERO).unwrap();
        let changes = |lookout: &mut Lookout, engine: &Engine| lookout.look(engine, false).and_then(|view| view.changes);
        assert_eq!(changes(&mut lookout, &engine).unwrap().kinds[0].1, "bird");
        engine.spawn_entity_at(PrefabId(0), Vec3::ZERO).unwrap();
        assert!(changes(&mut lookout, &engine).unwrap().kinds.is_empty());
        assert_eq!(changes(&mut lookout, &engine), None);
    }

    #[test]
    fn what_is_no_place_is_shown_somewhere() {
        for wild in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
            let pose = Pose::of(Vec3::new(wild, wild, wild), wild);
            assert!(pose.x.unsigned_abs() < 1 << 23 && pose.x == pose.z);
        }
    }
}
