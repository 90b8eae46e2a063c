//! Versions of scripts, and blobs in parts. Each function is one call's work on one connection.
//!
//! Who wants the next version of a script writes that script's row first: two wait for each other there. A blob is compared with its
//! digest whenever it is read.

use super::session::{Fault, Session};
use super::worlds::{column, number, parsed};
use super::writer::PART_BYTES;
use crate::blobs::BLOB_BYTES_MAX;
use crate::{StoreError, VersionRow};
use aether_types::{Digest, ScriptId, Version};
use std::path::Path;
use tokio_postgres::Row;

/// The most that a blob of the largest size has.
const PARTS_MAX: i64 = (BLOB_BYTES_MAX as usize).div_ceil(PART_BYTES) as i64;

pub(super) fn version(row: &Row, i: usize) -> Result<Version, Fault> {
    let number = number(row, i)?;
    u32::try_from(number).map(Version).map_err(|_| Fault::sql(format!("{number} is no version")))
}

/// A version of a script as the tables have it.
fn stored(version: Version) -> i64 {
    i64::from(version.0)
}

pub(super) async fn add_version(session: &Session, script: ScriptId, source: Digest, manifest: &str) -> Result<Version, Fault> {
    session.transaction(async |session| insert_version(session, script, source, manifest).await).await
}

async fn insert_version(session: &Session, script: ScriptId, source: Digest, manifest: &str) -> Result<Version, Fault> {
    let next = "INSERT INTO script (script_id, last_version) VALUES ($1, 1) \
        ON CONFLICT (script_id) DO UPDATE SET last_version = script.last_version + 1 RETURNING last_version";
    let rows = session.rows(next, &[&script.as_str()]).await?;
    let version = version(rows.first().ok_or_else(|| Fault::sql("an upsert gave no row"))?, 0)?;
    let insert = "INSERT INTO artifact (script_id, version, source, manifest) VALUES ($1, $2, $3, $4)";
    session.rows(insert, &[&script.as_str(), &stored(version), &source.to_string(), &manifest]).await?;
    Ok(version)
}

pub(super) async fn adopt_version(session: &Session, script: ScriptId, source: Digest, manifest: &str) -> Result<Version, Fault> {
    if let Some(version) = find_version(session, script, source, manifest).await? {
        return Ok(version);
    }
    session
        .transaction(async |session| {
            // Whoever else wants one waits here, and then finds ours.
            let lock = "INSERT INTO script (script_id, last_version) VALUES ($1, 0) \
                ON CONFLICT (script_id) DO UPDATE SET last_version = script.last_version";
            session.rows(lock, &[&script.as_str()]).await?;
            match find_version(session, script, source, manifest).await? {
                Some(version) => Ok(version),
                None => insert_version(session, script, source, manifest).await,
            }
        })
        .await
}

async fn find_version(session: &Session, script: ScriptId, source: Digest, manifest: &str) -> Result<Option<Version>, Fault> {
    let find = "SELECT MAX(version) FROM artifact WHERE script_id = $1 AND source = $2 AND manifest = $3";
    let rows = session.rows(find, &[&script.as_str(), &source.to_string(), &manifest]).await?;
    match rows.first() {
        Some(row) if column::<Option<i64>>(row, 0)?.is_some() => version(row, 0).map(Some),
        _ => Ok(None),
    }
}

pub(super) async fn versions(session: &Session) -> Result<Vec<VersionRow>, Fault> {
    let list = "SELECT script_id, version, source, manifest, pinned FROM artifact ORDER BY script_id, version";
    let row = |row: &Row| {
        Ok(VersionRow {
            script: parsed(row, 0)?,
            version: version(row, 1)?,
            source: parsed(row, 2)?,
            manifest: column(row, 3)?,
            pinned: column(row, 4)?,
        })
    };
    session.rows(list, &[]).await?.iter().map(row).collect()
}

pub(super) async fn forget_version(session: &Session, script: ScriptId, version: Version) -> Result<(), Fault> {
    let (script, version) = (script.as_str(), stored(version));
    session
        .transaction(async |session| {
            // The script's row first, as everybody does.
            let inactive = "UPDATE script SET active = NULL WHERE script_id = $1 AND active = $2";
            session.rows(inactive, &[&script, &version]).await?;
            session.rows("DELETE FROM artifact WHERE script_id = $1 AND version = $2", &[&script, &version]).await.map(|_| ())
        })
        .await
}

pub(super) async fn pin(session: &Session, script: ScriptId, version: Version, pinned: bool) -> Result<bool, Fault> {
    let pin = "UPDATE artifact SET pinned = $3 WHERE script_id = $1 AND version = $2 RETURNING version";
    session.rows(pin, &[&script.as_str(), &stored(version), &pinned]).await.map(|rows| !rows.is_empty())
}

pub(super) async fn set_active(session: &Session, script: ScriptId, version: Version) -> Result<(), Fault> {
    session.transaction(async |session| activate(session, script, version).await).await
}

/// In the middle of a transaction. Refused if the version is not in the catalogue.
pub(super) async fn activate(session: &Session, script: ScriptId, version: Version) -> Result<(), Fault> {
    let (id, number) = (script.as_str(), stored(version));
    session.rows("UPDATE script SET active = $2 WHERE script_id = $1", &[&id, &number]).await?;
    // After the script's row: who forgets a version waits for that row, so what is here now stays until we have committed.
    let there = session.rows("SELECT 1 FROM artifact WHERE script_id = $1 AND version = $2", &[&id, &number]).await?;
    if there.is_empty() { Err(Fault::Refused(StoreError::NoVersion { script, version })) } else { Ok(()) }
}

pub(super) async fn active(session: &Session) -> Result<Vec<(ScriptId, Version)>, Fault> {
    let list = "SELECT script_id, active FROM script WHERE active IS NOT NULL ORDER BY script_id";
    session.rows(list, &[]).await?.iter().map(|row| Ok((parsed(row, 0)?, version(row, 1)?))).collect()
}

pub(super) async fn put_blob(session: &Session, place: &Path, digest: Digest, bytes: &[u8]) -> Result<(), Fault> {
    match get_blob(session, place, digest).await {
        Ok(Some(_)) => return Ok(()),
        Ok(None) => {}
        Err(Fault::Refused(error)) => tracing::warn!(%error, "a blob is put again and what is there replaced"),
        Err(fault) => return Err(fault),
    }
    let (name, parts) = (digest.to_string(), bytes.len().div_ceil(PART_BYTES).max(1) as i64);
    session
        .transaction(async |session| {
            session.rows("DELETE FROM blob WHERE digest = $1 AND part >= $2", &[&name, &parts]).await?;
            // The same bytes have the same parts: who puts them at the same time writes the same.
            let put = "INSERT INTO blob (digest, part, parts, data) VALUES ($1, $2, $3, $4) \
                ON CONFLICT (digest, part) DO UPDATE SET parts = EXCLUDED.parts, data = EXCLUDED.data";
            for part in 0..parts {
                let from = part as usize * PART_BYTES;
                let data = bytes.get(from..(from + PART_BYTES).min(bytes.len())).unwrap_or_default();
                session.rows(put, &[&name, &part, &parts, &data]).await?;
            }
            Ok(())
        })
        .await
}

pub(super) async fn get_blob(session: &Session, place: &Path, digest: Digest) -> Result<Option<Vec<u8>>, Fault> {
    let name = digest.to_string();
    let get = "SELECT data FROM blob WHERE digest = $1 AND part <= $2 ORDER BY part";
    let rows = session.rows(get, &[&name, &PARTS_MAX]).await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    for row in &rows {
        bytes.extend_from_slice(column::<&[u8]>(row, 0)?);
    }
    if Digest::of(&bytes) == digest {
        Ok(Some(bytes))
    } else {
        Err(Fault::Refused(StoreError::Damaged { path: place.join("blob").join(name), digest }))
    }
}

pub(super) async fn blobs(session: &Session) -> Result<Vec<Digest>, Fault> {
    let mut digests = session
        .rows("SELECT DISTINCT digest FROM blob", &[])
        .await?
        .iter()
        .map(|row| parsed(row, 0))
        .collect::<Result<Vec<Digest>, Fault>>()?;
    digests.sort_unstable();
    Ok(digests)
}

pub(super) async fn remove_blob(session: &Session, digest: Digest) -> Result<(), Fault> {
    session.rows("DELETE FROM blob WHERE digest = $1", &[&digest.to_string()]).await.map(|_| ())
}
