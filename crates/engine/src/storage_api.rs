//! [`StorageApi`]: a world's key-value data in memory, and the writes of a tick for the store.
//!
//! All of a world's data is in memory (it is bounded), so a read never waits for a disk; writes leave with the tick's output, and the
//! output gate holds what depends on them.

use crate::engine::Engine;
use aether_scripting::output::StorageWrite;
use aether_scripting::{ApiError, ApiResult, StorageApi};
use std::collections::BTreeMap;
use std::ops::Bound;

/// A world's data, and what a tick changed.
#[derive(Debug)]
pub(crate) struct Storage {
    namespaces: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    bytes: usize,
    bytes_max: usize,
    /// Last write wins within a tick.
    writes: BTreeMap<(String, String), Option<Vec<u8>>>,
}

impl Storage {
    pub fn new(bytes_max: usize, stored: impl IntoIterator<Item = (String, String, Vec<u8>)>) -> Storage {
        let mut storage = Storage { namespaces: BTreeMap::new(), bytes: 0, bytes_max, writes: BTreeMap::new() };
        for (namespace, key, value) in stored {
            storage.bytes += key.len() + value.len();
            storage.namespaces.entry(namespace).or_default().insert(key, value);
        }
        storage
    }

    /// Of keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Everything that is stored: namespace, key, value.
    pub fn iter(&self) -> impl Iterator<Item = (String, String, Vec<u8>)> + '_ {
        let entry = |(namespace, keys): (&'_ String, &'_ BTreeMap<String, Vec<u8>>)| {
            let namespace = namespace.clone();
            keys.iter().map(move |(key, value)| (namespace.clone(), key.clone(), value.clone())).collect::<Vec<_>>()
        };
        self.namespaces.iter().flat_map(entry)
    }

    pub fn take_writes(&mut self) -> Vec<StorageWrite> {
        std::mem::take(&mut self.writes)
            .into_iter()
            .map(|((namespace, key), value)| StorageWrite { namespace, key, value })
            .collect()
    }

    fn write(&mut self, namespace: &str, key: &str, value: Option<&[u8]>) -> ApiResult<()> {
        let keys = self.namespaces.entry(namespace.to_owned()).or_default();
        let old = keys.get(key).map(|old| key.len() + old.len());
        let new = value.map_or(0, |value| key.len() + value.len());
        if value.is_none() && old.is_none() {
            return Err(ApiError::NotFound);
        }
        let bytes = self.bytes - old.unwrap_or(0) + new;
        if bytes > self.bytes_max && new > old.unwrap_or(0) {
            return Err(ApiError::Full);
        }
        match value {
            Some(value) => keys.insert(key.to_owned(), value.to_vec()),
            None => keys.remove(key),
        };
        self.bytes = bytes;
        self.writes.insert((namespace.to_owned(), key.to_owned()), value.map(<[u8]>::to_vec));
        Ok(())
    }
}

impl Engine {
    fn namespace(&self) -> ApiResult<String> {
        self.callers.current()?.info.storage_namespace.clone().ok_or(ApiError::Denied)
    }
}

impl StorageApi for Engine {
    fn read_value(&mut self, key: &str, value: &mut Vec<u8>) -> ApiResult<()> {
        let namespace = self.callers.current()?.info.storage_namespace.as_ref().ok_or(ApiError::Denied)?;
        let stored = self.storage.namespaces.get(namespace).and_then(|keys| keys.get(key)).ok_or(ApiError::NotFound)?;
        value.clear();
        value.extend_from_slice(stored);
        Ok(())
    }

    fn write_value(&mut self, key: &str, value: &[u8]) -> ApiResult<()> {
        let namespace = self.namespace()?;
        self.storage.write(&namespace, key, Some(value))
    }

    fn delete_value(&mut self, key: &str) -> ApiResult<()> {
        let namespace = self.namespace()?;
        self.storage.write(&namespace, key, None)
    }

    fn list_keys(&mut self, prefix: &str, most: usize, keys: &mut Vec<String>) -> ApiResult<()> {
        let namespace = self.namespace()?;
        if let Some(stored) = self.storage.namespaces.get(&namespace) {
            let range = stored.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
            keys.extend(range.map(|(key, _)| key).take_while(|key| key.starts_with(prefix)).take(most).cloned());
        }
        Ok(())
    }
}
