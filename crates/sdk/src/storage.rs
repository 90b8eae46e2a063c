//! Persistent keys and values, in the namespace that the script's manifest names. A script sees its own writes at once.

use crate::error::{bytes, done};
use crate::raw::call;
use crate::{Error, Result};

/// The value of a key, if there is one.
pub fn get(key: &str) -> Result<Option<Vec<u8>>> {
    match bytes(|out| call!(storage::get(in key.as_bytes(), out out))) {
        Ok(value) => Ok(Some(value)),
        Err(Error::NotFound) => Ok(None),
        Err(other) => Err(other),
    }
}

/// Key at most 128 bytes, value at most 65536.
pub fn set(key: &str, value: &[u8]) -> Result<()> {
    done(call!(storage::set(in key.as_bytes(), in value)))
}

/// [`NotFound`](Error::NotFound) if there is none.
pub fn delete(key: &str) -> Result<()> {
    done(call!(storage::delete(in key.as_bytes())))
}

/// The keys that begin with `prefix`, in order, at most 1024.
pub fn keys(prefix: &str) -> Result<Vec<String>> {
    let all = bytes(|out| call!(storage::keys(in prefix.as_bytes(), out out)))?;
    let one = |key: &[u8]| String::from_utf8(key.to_vec()).map_err(|_| Error::BadUtf8);
    all.split(|byte| *byte == 0).filter(|key| !key.is_empty()).map(one).collect()
}
