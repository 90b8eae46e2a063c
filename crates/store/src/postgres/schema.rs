//! The tables, and how they come to be: numbered migrations, each in one transaction that also writes its number down.
//!
//! Several nodes may start at once: the first to insert a migration's number makes its tables, the others wait for that row, fail on it
//! and look again. A node whose database is up to date changes nothing, so its role needs no right to. Start with [`prepare`].
//!
//! A migration only adds (tables, columns with a default), so that the build before it works on; `readable_from` says which build is the
//! oldest that does, and an older one refuses to start.

use super::link::Backoff;
use super::session::{Connector, Fault, Session};
use crate::StoreError;
use std::time::Duration;

/// In order; the first is number 1. What was released is never changed.
const MIGRATIONS: [Migration; 2] = [
    Migration { sql: include_str!("migrations/0001.sql"), readable_from: 1 },
    Migration { sql: include_str!("migrations/0002.sql"), readable_from: 1 },
];
/// Nodes that start together wait for each other about this often.
const TRIES: usize = 100;

struct Migration {
    sql: &'static str,
    /// The lowest number of migrations that a build must know to use the tables after this one.
    readable_from: i64,
}

/// What only PostgreSQL knows. Without it everything works, slower: rows of `world` are updated in place if their page has room, and
/// what a checkpoint holds is not compressed a second time.
const TUNING: &str = "ALTER TABLE world SET (fillfactor = 20); \
    ALTER TABLE checkpoint_part ALTER COLUMN data SET STORAGE EXTERNAL; \
    ALTER TABLE blob ALTER COLUMN data SET STORAGE EXTERNAL";

/// Make what is missing; refuse what is too new.
pub(super) async fn prepare(connector: &Connector) -> Result<(), StoreError> {
    let mut backoff = Backoff::between(Duration::from_millis(10), Duration::from_millis(250));
    let mut last = String::new();
    for _ in 0..TRIES {
        let result = async {
            let session = connector.connect().await?;
            step(connector, &session).await
        };
        match result.await {
            Ok(true) => return Ok(()),
            Ok(false) => continue,
            Err(Fault::Refused(error)) => return Err(error),
            Err(Fault::Sql { message, raced: false }) => return Err(connector.failed(message)),
            // Somebody else made it first, or the server is just starting.
            Err(Fault::Lost(message) | Fault::Doubt(message) | Fault::Again(message) | Fault::Sql { message, .. }) => {
                last = message
            }
        }
        backoff.wait().await;
    }
    Err(connector.failed(format!("could not prepare the tables in {TRIES} tries: {last}")))
}

/// `true`: everything is there.
async fn step(connector: &Connector, session: &Session) -> Result<bool, Fault> {
    let known = MIGRATIONS.len() as i64;
    if let Some(schema) = connector.schema() {
        let found = session.rows("SELECT 1 FROM information_schema.schemata WHERE schema_name = $1", &[&schema]).await?;
        if found.is_empty() {
            // Its name was checked: letters, digits and underscores.
            session.batch(&format!("CREATE SCHEMA IF NOT EXISTS \"{schema}\"")).await?;
        }
    }
    let table = "SELECT 1 FROM information_schema.tables WHERE table_schema = current_schema() AND table_name = 'migration'";
    if session.rows(table, &[]).await?.is_empty() {
        let create = "CREATE TABLE IF NOT EXISTS migration (number BIGINT PRIMARY KEY, readable_from BIGINT NOT NULL)";
        session.batch(create).await?;
    }
    let row = session
        .rows("SELECT COALESCE(MAX(number), 0), COALESCE(MAX(readable_from), 0) FROM migration", &[])
        .await?
        .pop()
        .ok_or_else(|| Fault::sql("an aggregate gave no row"))?;
    let (number, readable_from): (i64, i64) = (row.get(0), row.get(1));
    if readable_from > known {
        return Err(Fault::Refused(connector.failed(format!(
            "its tables are of migration {number} and need a build that knows {readable_from}, this one knows {known}: install a newer build"
        ))));
    }
    if number >= known {
        return Ok(true);
    }
    let migration = &MIGRATIONS[number as usize];
    let next = number + 1;
    session
        .transaction(async |session| {
            // First: who comes second waits here, not in the middle of the tables.
            let insert = "INSERT INTO migration (number, readable_from) VALUES ($1, $2)";
            session.rows(insert, &[&next, &migration.readable_from]).await?;
            session.batch(migration.sql).await
        })
        .await?;
    tracing::info!(migration = next, database = %connector.place().display(), "made the tables of the store");
    if next == known
        && session.is_postgres()
        && let Err(fault) = session.batch(TUNING).await
    {
        tracing::debug!(?fault, "the tables are not tuned");
    }
    Ok(next == known)
}

/// What makes this server lose what it has acknowledged: the setting, and what it means. The last one is a matter of how much one can
/// afford, the others are mistakes.
pub(super) async fn durability(session: &Session) -> Result<Vec<(&'static str, &'static str)>, Fault> {
    let rows = session
        .rows(
            "SELECT name, setting FROM pg_settings \
             WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes', 'synchronous_standby_names') ORDER BY name",
            &[],
        )
        .await?;
    let mut found = Vec::new();
    for row in rows {
        let (name, setting): (String, Option<String>) = (row.get(0), row.get(1));
        found.extend(match (name.as_str(), setting.as_deref().unwrap_or_default()) {
            ("fsync", "off") => {
                Some(("fsync is off", "a power failure or a crash of its machine can destroy the whole database"))
            }
            ("synchronous_commit", "off") => {
                Some(("synchronous_commit is off", "a crash of the server loses what it acknowledged in its last moments"))
            }
            ("full_page_writes", "off") => {
                Some(("full_page_writes is off", "a power failure can leave half-written pages that recovery does not mend"))
            }
            ("synchronous_standby_names", "") => Some((NO_STANDBY, "what was acknowledged is lost with the server's disk")),
            _ => None,
        });
    }
    Ok(found)
}

/// Not a mistake: see [`durability`].
pub(super) const NO_STANDBY: &str = "no synchronous standby";

/// Warn if this server may lose what it has acknowledged.
pub(super) async fn check_durability(connector: &Connector, session: &Session) -> Result<(), Fault> {
    let database = connector.place().display();
    for (setting, meaning) in durability(session).await? {
        if setting == NO_STANDBY {
            tracing::info!(%database, "{setting}: {meaning}");
        } else {
            tracing::warn!(%database, "{setting}: {meaning}");
        }
    }
    Ok(())
}
