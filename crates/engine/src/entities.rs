//! All entities of a world: found by id, by kind, by place.
//!
//! A slot map finds one by id; ids carry a generation, so that an old one never finds a new entity. A grid of cells finds by place:
//! an entity moves to another list only when it crosses a cell's border. Not here: bodies (`physics`), who may do what (`callers`).

use aether_scripting::{EntityId, InstanceId, Vec3};
use serde::{Deserialize, Serialize};
use slotmap::{Key, KeyData, SlotMap, new_key_type};
use std::collections::{BTreeMap, BTreeSet, HashMap};

new_key_type! {
    pub(crate) struct EntityKey;
}

pub(crate) fn key_of(id: EntityId) -> EntityKey {
    KeyData::from_ffi(id.0).into()
}

pub(crate) fn id_of(key: EntityKey) -> EntityId {
    EntityId(key.data().as_ffi())
}

/// The number of a kind's name.
pub(crate) type KindId = u16;

/// One entity. What is read a thousand times a tick comes first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entity {
    pub position: Vec3,
    pub yaw: f32,
    pub velocity: Vec3,
    pub kind: KindId,
    /// Whether physics has a body of it.
    pub has_body: bool,
    pub owner: InstanceId,
    pub prefab: u32,
    cell: Cell,
    pub components: BTreeMap<String, Vec<u8>>,
}

impl Entity {
    /// Set the position. `false`: it may have left its cell, and [`Entities::change_cell`] must be called.
    #[inline]
    pub fn move_within_cell(&mut self, position: Vec3) -> bool {
        self.position = position;
        // Without rounding, which is a function call on older machines.
        let (x, z) = (position.x * (1.0 / CELL) - f32::from(self.cell.0), position.z * (1.0 / CELL) - f32::from(self.cell.1));
        (0.0..1.0).contains(&x) && (0.0..1.0).contains(&z)
    }

    pub fn component_bytes(&self) -> usize {
        self.components.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

/// Metres of a cell's side: about the radius of most queries.
const CELL: f32 = 16.0;

type Cell = (i16, i16);

/// The world is flat: cells are columns.
fn cell_of(position: Vec3) -> Cell {
    ((position.x * (1.0 / CELL)).floor() as i16, (position.z * (1.0 / CELL)).floor() as i16)
}

/// All entities of a world.
#[derive(Debug, Default)]
pub(crate) struct Entities {
    pub slots: SlotMap<EntityKey, Entity>,
    /// Names of kinds, by number.
    pub kinds: Vec<String>,
    by_kind: Vec<BTreeSet<EntityId>>,
    grid: HashMap<Cell, Vec<EntityKey>>,
}

impl Entities {
    /// The number of a kind, a new one if it has none yet. Kinds come from prefabs and manifests, so they are few.
    pub fn kind_id(&mut self, name: &str) -> KindId {
        match self.find_kind(name) {
            Some(id) => id,
            None => {
                self.kinds.push(name.to_owned());
                self.by_kind.push(BTreeSet::new());
                (self.kinds.len() - 1) as KindId
            }
        }
    }

    pub fn find_kind(&self, name: &str) -> Option<KindId> {
        self.kinds.iter().position(|kind| kind == name).map(|at| at as KindId)
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    #[inline]
    pub fn get(&self, id: EntityId) -> Option<&Entity> {
        self.slots.get(key_of(id))
    }

    #[inline]
    pub fn get_mut(&mut self, id: EntityId) -> Option<&mut Entity> {
        self.slots.get_mut(key_of(id))
    }

    pub fn insert(
        &mut self,
        prefab: u32,
        kind: KindId,
        owner: InstanceId,
        position: Vec3,
        components: BTreeMap<String, Vec<u8>>,
    ) -> EntityId {
        let cell = cell_of(position);
        let entity = Entity { position, yaw: 0.0, velocity: Vec3::ZERO, kind, has_body: false, owner, prefab, cell, components };
        let key = self.slots.insert(entity);
        self.grid.entry(cell).or_default().push(key);
        self.by_kind[kind as usize].insert(id_of(key));
        id_of(key)
    }

    pub fn remove(&mut self, id: EntityId) -> Option<Entity> {
        let entity = self.slots.remove(key_of(id))?;
        self.leave_cell(key_of(id), entity.cell);
        self.by_kind[entity.kind as usize].remove(&id);
        Some(entity)
    }

    fn leave_cell(&mut self, key: EntityKey, cell: Cell) {
        if let Some(list) = self.grid.get_mut(&cell) {
            list.retain(|other| *other != key);
            if list.is_empty() {
                self.grid.remove(&cell);
            }
        }
    }

    /// Move an entity. Only a crossed border touches the grid.
    #[inline]
    pub fn set_position(&mut self, id: EntityId, position: Vec3) {
        let Some(entity) = self.get_mut(id) else { return };
        if !entity.move_within_cell(position) {
            self.change_cell(id);
        }
    }

    /// An entity has left its cell: put it into the list of the one where it is now.
    #[cold]
    pub fn change_cell(&mut self, id: EntityId) {
        let key = key_of(id);
        let Some(entity) = self.slots.get_mut(key) else { return };
        let new = cell_of(entity.position);
        let old = std::mem::replace(&mut entity.cell, new);
        if old != new {
            self.leave_cell(key, old);
            self.grid.entry(new).or_default().push(key);
        }
    }

    pub fn of_kind(&self, kind: KindId) -> impl Iterator<Item = EntityId> + '_ {
        self.by_kind[kind as usize].iter().copied()
    }

    /// Entities within a radius, with the square of their distance; in no order. Gives how many were looked at.
    pub fn within(&self, center: Vec3, radius: f32, kind: Option<KindId>, mut found: impl FnMut(EntityId, f32)) -> u64 {
        let mut looked = 0;
        let reach = Vec3::new(radius, 0.0, radius);
        let (low, high) = (
            cell_of(Vec3::new(center.x - reach.x, 0.0, center.z - reach.z)),
            cell_of(Vec3::new(center.x + reach.x, 0.0, center.z + reach.z)),
        );
        let mut look = |keys: &[EntityKey]| {
            // A list costs something too, even an empty one.
            looked += 1 + keys.len() as u64;
            for key in keys {
                let entity = &self.slots[*key];
                let distance = entity.position.distance_squared(center);
                if distance <= radius * radius && kind.is_none_or(|kind| kind == entity.kind) {
                    found(id_of(*key), distance);
                }
            }
        };
        let cells = (i32::from(high.0) - i32::from(low.0) + 1) as usize * (i32::from(high.1) - i32::from(low.1) + 1) as usize;
        if cells > self.grid.len() {
            // A wide query in a sparse world: fewer lists than cells. Their order does not matter: the caller sorts.
            self.grid.values().for_each(|keys| look(keys));
            return looked;
        }
        for x in low.0..=high.0 {
            for z in low.1..=high.1 {
                look(self.grid.get(&(x, z)).map_or(&[], Vec::as_slice));
            }
        }
        looked
    }

    /// Make the indexes anew, after `slots` and `kinds` came out of a checkpoint.
    pub fn reindex(&mut self) {
        self.grid.clear();
        self.by_kind = vec![BTreeSet::new(); self.kinds.len()];
        for (key, entity) in &mut self.slots {
            entity.cell = cell_of(entity.position);
            self.grid.entry(entity.cell).or_default().push(key);
            self.by_kind[entity.kind as usize].insert(id_of(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entities(positions: &[Vec3]) -> (Entities, Vec<EntityId>) {
        let mut entities = Entities::default();
        let kind = entities.kind_id("bird");
        let ids = positions.iter().map(|p| entities.insert(0, kind, InstanceId(1), *p, BTreeMap::new())).collect();
        (entities, ids)
    }

    #[test]
    fn an_old_id_never_finds_a_new_entity() {
        let (mut entities, ids) = entities(&[Vec3::ZERO]);
        assert!(entities.remove(ids[0]).is_some() && entities.remove(ids[0]).is_none());
        let new = entities.insert(0, 0, InstanceId(1), Vec3::ZERO, BTreeMap::new());
        assert!(new != ids[0] && entities.get(ids[0]).is_none() && entities.get(new).is_some());
        for nobody in [0, 1, u64::MAX, 1 << 32, new.0 + 1] {
            assert!(entities.get(EntityId(nobody)).is_none() || nobody == new.0);
        }
    }

    fn point() -> impl Strategy<Value = Vec3> {
        (-200.0f32..200.0, -5.0f32..50.0, -200.0f32..200.0).prop_map(|(x, y, z)| Vec3::new(x, y, z))
    }

    proptest! {
        #[test]
        fn the_grid_finds_what_a_look_at_all_of_them_finds(
            from in proptest::collection::vec(point(), 1..60),
            to in proptest::collection::vec(point(), 60),
            center in point(),
            radius in 0.0f32..300.0,
        ) {
            let (mut entities, ids) = entities(&from);
            for (id, position) in ids.iter().zip(&to).step_by(2) {
                entities.set_position(*id, *position);
            }
            entities.remove(ids[ids.len() / 2]);
            let mut found = Vec::new();
            entities.within(center, radius, None, |id, _| found.push(id));
            found.sort();
            let mut all: Vec<_> = ids.iter().copied().filter(|id| entities.get(*id).is_some_and(|e| e.position.distance_squared(center) <= radius * radius)).collect();
            all.sort();
            prop_assert_eq!(found, all);
        }
    }
}
