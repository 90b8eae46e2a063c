//! `aether:storage`: persistent key-value data.

use super::*;
use crate::abi::limit;
use crate::api::StorageApi;

const MODULE: &str = "aether:storage";
const GROUP: HostGroup = HostGroup::Storage;

pub(super) fn link(linker: &mut Linker<ScriptData>, fibre: bool) -> Result<()> {
    costly!(linker, fibre, MODULE, "get", |guest, key: i32, length: i32, out: i32, capacity: i32| -> i32 {
        enter(guest, GROUP, cost::STORAGE)?;
        let mut length_of_value = 0;
        let result = call(guest, |memory, api| {
            memory.slice_mut(out, capacity as u32 as usize)?;
            let mut value = Vec::new();
            api.read_value(memory.text(key, length, limit::KEY_BYTES)?, &mut value)?;
            length_of_value = value.len() as u64;
            memory.write_all_or_nothing(out, capacity, &value)
        });
        charge(guest, length_of_value * cost::BYTE)?;
        Ok(status(result))
    });
    costly!(linker, fibre, MODULE, "set", |guest, key: i32, length: i32, value: i32, value_length: i32| -> i32 {
        enter(guest, GROUP, cost::STORAGE + bytes(value_length, limit::VALUE_BYTES))?;
        Ok(done(call(guest, |memory, api| {
            let value = memory.bytes(value, value_length, limit::VALUE_BYTES)?;
            api.write_value(memory.text(key, length, limit::KEY_BYTES)?, value)
        })))
    });
    costly!(linker, fibre, MODULE, "delete", |guest, key: i32, length: i32| -> i32 {
        enter(guest, GROUP, cost::STORAGE)?;
        Ok(done(call(guest, |memory, api| api.delete_value(memory.text(key, length, limit::KEY_BYTES)?))))
    });
    costly!(linker, fibre, MODULE, "keys", |guest, prefix: i32, length: i32, out: i32, capacity: i32| -> i32 {
        enter(guest, GROUP, cost::STORAGE + cost::QUERY + bytes(capacity, limit::KEYS * (limit::KEY_BYTES + 1)))?;
        let mut found = 0;
        let result = call(guest, |memory, api| {
            memory.slice_mut(out, capacity as u32 as usize)?;
            let mut keys = Vec::new();
            api.list_keys(memory.text(prefix, length, limit::KEY_BYTES)?, limit::KEYS, &mut keys)?;
            found = keys.len() as u64;
            let list = keys.into_iter().fold(Vec::new(), |mut list, key| {
                list.extend_from_slice(key.as_bytes());
                list.push(0);
                list
            });
            memory.write_all_or_nothing(out, capacity, &list)
        });
        charge(guest, found * cost::FOUND)?;
        Ok(status(result))
    });
    Ok(())
}
