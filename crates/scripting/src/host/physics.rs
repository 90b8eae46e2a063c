//! `aether:physics`: forces, raycasts, overlap tests.

use super::*;
use crate::api::PhysicsApi;

const MODULE: &str = "aether:physics";
const GROUP: HostGroup = HostGroup::Physics;

pub(super) fn link(linker: &mut Linker<ScriptData>, fibre: bool) -> Result<()> {
    linker.func_wrap(MODULE, "apply_force", |mut guest: Guest<'_>, entity: i64, x: f32, y: f32, z: f32| -> Result<i32> {
        enter(&mut guest, GROUP, cost::PHYSICS)?;
        Ok(done(act(&mut guest, |api| api.apply_force(entity_id(entity), vec3(x, y, z)))))
    })?;
    linker.func_wrap(MODULE, "apply_impulse", |mut guest: Guest<'_>, entity: i64, x: f32, y: f32, z: f32| -> Result<i32> {
        enter(&mut guest, GROUP, cost::PHYSICS)?;
        Ok(done(act(&mut guest, |api| api.apply_impulse(entity_id(entity), vec3(x, y, z)))))
    })?;
    linker.func_wrap(MODULE, "set_velocity", |mut guest: Guest<'_>, entity: i64, x: f32, y: f32, z: f32| -> Result<i32> {
        enter(&mut guest, GROUP, cost::PHYSICS)?;
        Ok(done(act(&mut guest, |api| api.set_velocity(entity_id(entity), vec3(x, y, z)))))
    })?;
    linker.func_wrap(MODULE, "get_velocity", |mut guest: Guest<'_>, entity: i64, out: i32| -> Result<i32> {
        enter(&mut guest, GROUP, cost::ENTITY)?;
        Ok(done(call(&mut guest, |memory, api| memory.write_vec3(out, api.velocity(entity_id(entity))?))))
    })?;
    costly!(linker, fibre, MODULE, "raycast", |guest,
                                               x: f32,
                                               y: f32,
                                               z: f32,
                                               dx: f32,
                                               dy: f32,
                                               dz: f32,
                                               most: f32,
                                               ignore: i64,
                                               out: i32|
     -> i32 {
        enter(guest, GROUP, cost::CAST)?;
        Ok(done(call(guest, |memory, api| {
            memory.slice_mut(out, 24)?;
            let hit = api.raycast(vec3(x, y, z), vec3(dx, dy, dz), most, entity_id(ignore))?;
            memory.write(out as u32, &hit.entity.0.to_le_bytes())?;
            memory.write(out as u32 + 8, &hit.distance.to_le_bytes())?;
            memory.write_vec3(out + 12, hit.normal)
        })))
    });
    costly!(linker, fibre, MODULE, "overlap_sphere", |guest,
                                                      x: f32,
                                                      y: f32,
                                                      z: f32,
                                                      radius: f32,
                                                      out: i32,
                                                      capacity: i32|
     -> i32 {
        enter(guest, GROUP, cost::CAST)?;
        write_entities(guest, out, capacity, |_, api, found| api.overlap_sphere(vec3(x, y, z), radius, found))
    });
    costly!(linker, fibre, MODULE, "overlap_box", |guest,
                                                   x: f32,
                                                   y: f32,
                                                   z: f32,
                                                   hx: f32,
                                                   hy: f32,
                                                   hz: f32,
                                                   out: i32,
                                                   capacity: i32|
     -> i32 {
        enter(guest, GROUP, cost::CAST)?;
        write_entities(guest, out, capacity, |_, api, found| api.overlap_box(vec3(x, y, z), vec3(hx, hy, hz), found))
    });
    Ok(())
}
