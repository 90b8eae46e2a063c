//! `aether:storage`: persistent key-value data.

use super::*;
use crate::abi::limit;
use crate::api::StorageApi;

const MODULE: &str = "aether:storage";
const GROUP: HostGroup = HostGroup::Storage;

pub(super) fn link(linker: &mut Linker<ScriptData>) -> Result<()> {
    linker.func_wrap(MODULE, "get", |mut guest: Guest<'_>, key: i32, length: i32, out: i32, capacity: i32| -> Result<i32> {
        enter(&mut guest, GROUP, cost::STORAGE + bytes(capacity, limit::VALUE_BYTES))?;
        Ok(status(call(&mut guest, |memory, api| {
            memory.slice_mut(out, capacity as u32 as usize)?;
            let mut value = Vec::new();
            api.read_value(memory.text(key, length, limit::KEY_BYTES)?, &mut value)?;
            memory.write_all_or_nothing(out, capacity, &value)
        })))
    })?;
    linker.func_wrap(MODULE, "set", |mut guest: Guest<'_>, key: i32, length: i32, value: i32, value_length: i32| -> Result<i32> {
        enter(&mut guest, GROUP, cost::STORAGE + bytes(value_length, limit::VALUE_BYTES))?;
        Ok(done(call(&mut guest, |memory, api| {
            let value = memory.bytes(value, value_length, limit::VALUE_BYTES)?;
            api.write_value(memory.text(key, length, limit::KEY_BYTES)?, value)
        })))
    })?;
    linker.func_wrap(MODULE, "delete", |mut guest: Guest<'_>, key: i32, length: i32| -> Result<i32> {
        enter(&mut guest, GROUP, cost::STORAGE)?;
        Ok(done(call(&mut guest, |memory, api| api.delete_value(memory.text(key, length, limit::KEY_BYTES)?))))
    })?;
    linker.func_wrap(MODULE, "keys", |mut guest: Guest<'_>, prefix: i32, length: i32, out: i32, capacity: i32| -> Result<i32> {
        enter(&mut guest, GROUP, cost::STORAGE + cost::QUERY + bytes(capacity, limit::KEYS * (limit::KEY_BYTES + 1)))?;
        let mut found = 0;
        let result = call(&mut guest, |memory, api| {
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
        charge(&mut guest, found * cost::FOUND)?;
        Ok(status(result))
    })?;
    Ok(())
}
