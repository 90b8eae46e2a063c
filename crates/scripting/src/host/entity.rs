//! `aether:entity`: query, spawn, destroy and modify entities.

use super::memory::{BODY_BYTES, body_bytes, entity_at, read_body};
use super::*;
use crate::abi::limit;
use crate::api::{ApiError, Body, EntityApi};

const MODULE: &str = "aether:entity";
const GROUP: HostGroup = HostGroup::Entity;

pub(super) fn link(linker: &mut Linker<ScriptData>, fibre: bool) -> Result<()> {
    linker.func_wrap(MODULE, "self_entity", |mut guest: Guest<'_>| -> Result<i64> {
        enter(&mut guest, GROUP, cost::ENTITY)?;
        Ok(status64(act(&mut guest, |api| api.self_entity().map(|id| id.0))))
    })?;
    costly!(linker, fibre, MODULE, "spawn", |guest, prefab: i32, length: i32, x: f32, y: f32, z: f32| -> i64 {
        enter(guest, GROUP, cost::SPAWN)?;
        Ok(status64(call(guest, |memory, api| {
            let prefab = api.find_prefab(memory.text(prefab, length, limit::NAME_BYTES)?)?;
            api.spawn_entity_at(prefab, vec3(x, y, z)).map(|id| id.0)
        })))
    });
    costly!(linker, fibre, MODULE, "destroy", |guest, entity: i64| -> i32 {
        enter(guest, GROUP, cost::SPAWN)?;
        Ok(done(act(guest, |api| api.destroy_entity(entity_id(entity)))))
    });
    linker.func_wrap(MODULE, "get_kind", |mut guest: Guest<'_>, entity: i64, out: i32, capacity: i32| -> Result<i32> {
        enter(&mut guest, GROUP, cost::ENTITY + bytes(capacity, limit::NAME_BYTES))?;
        Ok(status(call(&mut guest, |memory, api| {
            memory.write_all_or_nothing(out, capacity, api.kind(entity_id(entity))?.as_bytes())
        })))
    })?;
    linker.func_wrap(MODULE, "get_position", |mut guest: Guest<'_>, entity: i64, out: i32| -> Result<i32> {
        enter(&mut guest, GROUP, cost::ENTITY)?;
        Ok(done(call(&mut guest, |memory, api| memory.write_vec3(out, api.position(entity_id(entity))?))))
    })?;
    linker.func_wrap(MODULE, "set_position", |mut guest: Guest<'_>, entity: i64, x: f32, y: f32, z: f32| -> Result<i32> {
        enter(&mut guest, GROUP, cost::ENTITY)?;
        Ok(done(act(&mut guest, |api| api.set_position(entity_id(entity), vec3(x, y, z)))))
    })?;
    linker.func_wrap(MODULE, "set_yaw", |mut guest: Guest<'_>, entity: i64, yaw: f32| -> Result<i32> {
        enter(&mut guest, GROUP, cost::ENTITY)?;
        Ok(done(act(&mut guest, |api| api.set_yaw(entity_id(entity), yaw))))
    })?;
    link_batches(linker, fibre)?;
    link_components(linker, fibre)?;
    link_queries(linker, fibre)
}

fn batch(count: i32) -> u64 {
    (count as u32 as usize).min(limit::BATCH) as u64 * cost::ENTITY
}

fn link_batches(linker: &mut Linker<ScriptData>, fibre: bool) -> Result<()> {
    costly!(linker, fibre, MODULE, "read_bodies", |guest, entities: i32, count: i32, out: i32, capacity: i32| -> i32 {
        enter(guest, GROUP, batch(count))?;
        Ok(status(call(guest, |memory, api| {
            let (count, capacity) = (count as u32 as usize, capacity as u32 as usize);
            if count > limit::BATCH {
                return Err(ApiError::TooLarge);
            }
            memory.slice(entities, count * 8)?;
            let fits = count.min(capacity);
            memory.slice_mut(out, fits * BODY_BYTES)?;
            for i in 0..fits {
                // Read one by one: input and output may overlap, and then the script sees its own mistake.
                let entity = entity_at(memory.slice(entities, count * 8)?, 8 * i);
                let body = match api.body(entity) {
                    Ok(body) => body,
                    Err(ApiError::NotFound) => Body::default(),
                    Err(error) => return Err(error),
                };
                memory.write(out as u32 + (i * BODY_BYTES) as u32, &body_bytes(&body))?;
            }
            Ok(count as u32)
        })))
    });
    costly!(linker, fibre, MODULE, "write_bodies", |guest, bodies: i32, count: i32| -> i32 {
        enter(guest, GROUP, batch(count))?;
        Ok(status(call(guest, |memory, api| {
            let count = count as u32 as usize;
            if count > limit::BATCH {
                return Err(ApiError::TooLarge);
            }
            let mut written = 0;
            for bytes in memory.slice(bodies, count * BODY_BYTES)?.chunks_exact(BODY_BYTES) {
                match api.set_body(read_body(bytes)) {
                    Ok(()) => written += 1,
                    Err(ApiError::NotFound | ApiError::Denied) if api.groups.contains(GROUP) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(written)
        })))
    });
    Ok(())
}

fn link_components(linker: &mut Linker<ScriptData>, fibre: bool) -> Result<()> {
    linker.func_wrap(
        MODULE,
        "get_component",
        |mut guest: Guest<'_>, entity: i64, name: i32, length: i32, out: i32, capacity: i32| -> Result<i32> {
            enter(&mut guest, GROUP, cost::ENTITY + bytes(length, limit::NAME_BYTES) + bytes(capacity, limit::COMPONENT_BYTES))?;
            Ok(status(call(&mut guest, |memory, api| {
                let value = api.component(entity_id(entity), memory.text(name, length, limit::NAME_BYTES)?)?;
                memory.write_all_or_nothing(out, capacity, value)
            })))
        },
    )?;
    costly!(linker, fibre, MODULE, "set_component", |guest,
                                                     entity: i64,
                                                     name: i32,
                                                     length: i32,
                                                     value: i32,
                                                     value_length: i32|
     -> i32 {
        enter(guest, GROUP, cost::ENTITY + bytes(length, limit::NAME_BYTES) + bytes(value_length, limit::COMPONENT_BYTES))?;
        Ok(done(call(guest, |memory, api| {
            let value = memory.bytes(value, value_length, limit::COMPONENT_BYTES)?;
            api.set_component(entity_id(entity), memory.text(name, length, limit::NAME_BYTES)?, value)
        })))
    });
    linker.func_wrap(MODULE, "remove_component", |mut guest: Guest<'_>, entity: i64, name: i32, length: i32| -> Result<i32> {
        enter(&mut guest, GROUP, cost::ENTITY + bytes(length, limit::NAME_BYTES))?;
        Ok(done(call(&mut guest, |memory, api| {
            api.remove_component(entity_id(entity), memory.text(name, length, limit::NAME_BYTES)?)
        })))
    })?;
    Ok(())
}

fn link_queries(linker: &mut Linker<ScriptData>, fibre: bool) -> Result<()> {
    costly!(linker, fibre, MODULE, "query_kind", |guest, kind: i32, length: i32, out: i32, capacity: i32| -> i32 {
        enter(guest, GROUP, cost::QUERY)?;
        write_entities(guest, out, capacity, |memory, api, found| {
            api.query_kind(memory.text(kind, length, limit::NAME_BYTES)?, found)
        })
    });
    costly!(linker, fibre, MODULE, "query_radius", |guest,
                                                    x: f32,
                                                    y: f32,
                                                    z: f32,
                                                    radius: f32,
                                                    kind: i32,
                                                    length: i32,
                                                    out: i32,
                                                    capacity: i32|
     -> i32 {
        enter(guest, GROUP, cost::QUERY)?;
        write_entities(guest, out, capacity, |memory, api, found| {
            api.query_radius(vec3(x, y, z), radius, memory.text(kind, length, limit::NAME_BYTES)?, found)
        })
    });
    costly!(linker, fibre, MODULE, "nearest", |guest, x: f32, y: f32, z: f32, radius: f32, kind: i32, length: i32| -> i64 {
        enter(guest, GROUP, cost::QUERY)?;
        let mut looked = 0;
        let result = call(guest, |memory, api| {
            let nearest = api.nearest(vec3(x, y, z), radius, memory.text(kind, length, limit::NAME_BYTES)?);
            looked = api.host.take_examined();
            nearest.map(|id| id.0)
        });
        charge(guest, looked * cost::LOOKED)?;
        Ok(status64(result))
    });
    Ok(())
}
