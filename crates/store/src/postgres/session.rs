//! Connections: made with a time limit, closed at the first sign of trouble. Every statement has a deadline on both sides.
//!
//! [`Connector`] makes a [`Session`]. [`Fault`] sorts what can go wrong by what to do about it. Not here: what is sent, and connections
//! that are made again (`link.rs`).

use super::url::Target;
use crate::StoreError;
use std::collections::HashMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::error::{DbError, Severity, SqlState};
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls, Row, Statement};

/// To reach a server and be let in. A local network takes milliseconds; a failover is waited for by trying again.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Waiting for a lock, or for us in the middle of a transaction, until a node has a lease to derive it from: [`Connector::guard`].
const GUARD: Duration = Duration::from_secs(2);
/// The server should answer first: it knows why.
const ANSWER_GRACE: Duration = Duration::from_secs(1);

/// Parameters of a statement.
pub(super) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// What went wrong, by what to do about it.
#[derive(Debug)]
pub(super) enum Fault {
    /// The connection is gone, and nothing was committed on it that was not acknowledged.
    Lost(String),
    /// The connection is gone, or its answer worthless, while a commit was on its way.
    Doubt(String),
    /// Rolled back for a reason that passes: a conflict, a lock, a full disk.
    Again(String),
    /// Rolled back for a reason that does not pass.
    Sql {
        message: String,
        /// Somebody else has made the same thing at the same time.
        raced: bool,
    },
    /// Done as asked, and the answer is no.
    Refused(StoreError),
}

impl Fault {
    pub fn sql(message: impl Into<String>) -> Fault {
        Fault::Sql { message: message.into(), raced: false }
    }

    fn of(error: &tokio_postgres::Error, client: &Client) -> Fault {
        match error.as_db_error() {
            Some(error) => Fault::of_server(error),
            None if error.is_closed() || client.is_closed() => Fault::Lost(chain(error)),
            // Encoding and decoding.
            None => Fault::sql(chain(error)),
        }
    }

    fn of_server(error: &DbError) -> Fault {
        let code = error.code();
        let mut message = format!("{} ({})", error.message(), code.code());
        if let Some(detail) = error.detail() {
            message.push_str(": ");
            message.push_str(detail);
        }
        // 57014: the statement's time was over; the other 57s: the server goes. 40003: it does not know whether it committed. 25006: it
        // became a standby. 25P03: we stood still in a transaction.
        let raced =
            [&SqlState::UNIQUE_VIOLATION, &SqlState::DUPLICATE_TABLE, &SqlState::DUPLICATE_SCHEMA, &SqlState::DUPLICATE_OBJECT];
        match code.code() {
            "57014" => Fault::Again(message),
            "40003" | "25006" | "25P03" => Fault::Lost(message),
            text if text.starts_with("08") || text.starts_with("57") => Fault::Lost(message),
            text if ["40", "53", "55", "58"].iter().any(|class| text.starts_with(class)) => Fault::Again(message),
            _ => Fault::Sql { message, raced: raced.contains(&code) },
        }
    }

    /// What it means when a commit was on its way.
    pub fn at_commit(self) -> Fault {
        match self {
            Fault::Lost(message) => Fault::Doubt(message),
            other => other,
        }
    }
}

/// Whether the server was reached, and its certificate or its lack of encryption is why nothing was sent.
fn is_mistrust(error: &tokio_postgres::Error) -> bool {
    let Some(cause) = error.source() else { return false };
    let inner = cause.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref());
    inner.is_some_and(|inner| inner.is::<tokio_rustls::rustls::Error>()) || cause.to_string() == "server does not support TLS"
}

/// With its causes: tokio-postgres keeps the reason there. None of them holds a URL.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Makes connections, all alike.
pub(super) struct Connector {
    config: tokio_postgres::Config,
    tls: Option<super::tls::Tls>,
    place: PathBuf,
    schema: Option<String>,
    statement_timeout: Duration,
    /// Milliseconds, see [`Connector::guard`].
    guard: AtomicU64,
    runtime: Handle,
}

impl Connector {
    pub fn new(target: Target, schema: Option<String>, statement_timeout: Duration, runtime: Handle) -> Connector {
        let Target { mut config, tls, place } = target;
        // Of several hosts, the one that is no standby.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite).application_name("aether");
        if config.get_connect_timeout().is_none() {
            // All hosts of the URL in a part of the time that a statement has: the first may be the one that is gone.
            let hosts = u32::try_from(config.get_hosts().len().max(1)).unwrap_or(u32::MAX);
            let connect = statement_timeout / 4 / hosts;
            config.connect_timeout(connect.clamp(Duration::from_millis(100), CONNECT_MAX));
        }
        // A peer that vanished without a word is noticed in the time that a statement may take.
        config.keepalives_idle(Duration::from_secs(5)).keepalives_interval(Duration::from_secs(2)).keepalives_retries(3);
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(statement_timeout);
        }
        let guard = AtomicU64::new(GUARD.as_millis() as u64);
        Connector { config, tls, place, schema, statement_timeout, guard, runtime }
    }

    pub fn place(&self) -> &Path {
        &self.place
    }

    pub fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    pub fn statement_timeout(&self) -> Duration {
        self.statement_timeout
    }

    /// The store's thread, which must have the context when a connection or a timer is made.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// The server ends a transaction in whose middle it has waited this long for a lock or for us. It is below the lease's time: a node that
    /// stands still in a transaction must not hold its worlds' rows for longer than it holds the worlds.
    pub fn guard(&self, lease: Duration) {
        let milliseconds = (lease / 2).min(GUARD).as_millis() as u64;
        self.guard.store(milliseconds.max(1), Ordering::Relaxed);
    }

    pub fn failed(&self, message: impl Into<String>) -> StoreError {
        StoreError::Database { path: self.place.clone(), message: message.into() }
    }

    /// A connection, ready for use.
    pub async fn connect(&self) -> Result<Session, Fault> {
        match timeout(self.connect_max(), self.connect_now()).await {
            Ok(result) => result,
            Err(_) => Err(Fault::Lost("could not connect in time".to_owned())),
        }
    }

    /// Each of the hosts has the time of the URL.
    fn connect_max(&self) -> Duration {
        let one = self.config.get_connect_timeout().copied().unwrap_or(CONNECT_MAX);
        one.saturating_mul(self.config.get_hosts().len().max(1) as u32) + ANSWER_GRACE
    }

    async fn connect_now(&self) -> Result<Session, Fault> {
        // A wrong password or no such database is nothing to wait for; everything else may pass.
        let refused = |error: tokio_postgres::Error| match error.as_db_error() {
            Some(error) if ["28", "3D"].iter().any(|class| error.code().code().starts_with(class)) => {
                Fault::sql(format!("{} ({})", error.message(), error.code().code()))
            }
            _ if is_mistrust(&error) => Fault::sql(chain(&error)),
            _ => Fault::Lost(chain(&error)),
        };
        let guard = self.guard.load(Ordering::Relaxed);
        let doubtful = Arc::new(AtomicBool::new(false));
        let (client, driver, is_postgres) = match &self.tls {
            None => {
                let (client, connection) = self.config.connect(NoTls).await.map_err(refused)?;
                let is_postgres = connection.parameter("crdb_version").is_none();
                (client, self.runtime.spawn(drive(connection, doubtful.clone())), is_postgres)
            }
            Some(tls) => {
                let (client, connection) = self.config.connect(tls.clone()).await.map_err(refused)?;
                let is_postgres = connection.parameter("crdb_version").is_none();
                (client, self.runtime.spawn(drive(connection, doubtful.clone())), is_postgres)
            }
        };
        let session = Session {
            client,
            driver: driver.abort_handle(),
            statements: Mutex::new(HashMap::new()),
            answer_max: self.statement_timeout + ANSWER_GRACE,
            guard,
            doubtful,
            is_postgres,
        };
        let statement = self.statement_timeout.as_millis();
        let mut settings = format!(
            "SET statement_timeout = {statement}; SET lock_timeout = {guard}; SET idle_in_transaction_session_timeout = {guard};"
        );
        if is_postgres {
            // Compiling a statement takes longer than any of ours.
            settings.push_str(" SET jit = off;");
        }
        if let Some(schema) = &self.schema {
            settings.push_str(&format!(" SET search_path TO \"{schema}\";"));
        }
        session.batch(&settings).await?;
        Ok(session)
    }
}

/// Move bytes until the connection ends. A warning is remembered: the server warns of a commit that is not on its standby.
async fn drive<S, T>(mut connection: Connection<S, T>, doubtful: Arc<AtomicBool>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            Some(Ok(AsyncMessage::Notice(notice))) => {
                if notice.parsed_severity() == Some(Severity::Warning) && *notice.code() == SqlState::WARNING {
                    doubtful.store(true, Ordering::SeqCst);
                }
                tracing::debug!(notice = notice.message(), "the database says");
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => return tracing::debug!(error = chain(&error), "a connection to the database ended"),
            None => return,
        }
    }
}

/// A connection. Dropped, it is closed at once.
pub(super) struct Session {
    client: Client,
    driver: AbortHandle,
    /// Prepared ones; as many as the code has.
    statements: Mutex<HashMap<&'static str, Statement>>,
    answer_max: Duration,
    guard: u64,
    doubtful: Arc<AtomicBool>,
    is_postgres: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Session {
    /// PostgreSQL or what is made of it, and not something else that speaks like it.
    pub fn is_postgres(&self) -> bool {
        self.is_postgres
    }

    /// It stands, and has the limits that the node's lease asks for.
    pub fn is_usable(&self, connector: &Connector) -> bool {
        !self.client.is_closed() && !self.driver.is_finished() && self.guard == connector.guard.load(Ordering::Relaxed)
    }

    pub fn has_prepared(&self, sql: &'static str) -> bool {
        self.statements.lock().unwrap_or_else(PoisonError::into_inner).contains_key(sql)
    }

    pub async fn prepared(&self, sql: &'static str) -> Result<Statement, Fault> {
        let known = self.statements.lock().unwrap_or_else(PoisonError::into_inner).get(sql).cloned();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = self.limited(self.client.prepare(sql)).await?;
        self.statements.lock().unwrap_or_else(PoisonError::into_inner).insert(sql, statement.clone());
        Ok(statement)
    }

    /// A statement and its rows.
    pub async fn rows(&self, sql: &'static str, params: Params<'_>) -> Result<Vec<Row>, Fault> {
        let statement = self.prepared(sql).await?;
        self.run(&statement, params).await
    }

    /// The same, prepared: sent when it is first polled.
    pub async fn run(&self, statement: &Statement, params: Params<'_>) -> Result<Vec<Row>, Fault> {
        self.limited(self.client.query(statement, params)).await
    }

    /// Several statements without parameters.
    pub async fn batch(&self, sql: &str) -> Result<(), Fault> {
        self.limited(self.client.batch_execute(sql)).await
    }

    async fn limited<R>(&self, answer: impl Future<Output = Result<R, tokio_postgres::Error>>) -> Result<R, Fault> {
        match timeout(self.answer_max, answer).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Fault::of(&error, &self.client)),
            Err(_) => {
                // What comes later belongs to nobody.
                self.driver.abort();
                Err(Fault::Lost(format!("no answer in {} s", self.answer_max.as_secs_f32())))
            }
        }
    }

    /// `f` in a transaction: all of it, or nothing.
    pub async fn transaction<R>(&self, f: impl AsyncFn(&Session) -> Result<R, Fault>) -> Result<R, Fault> {
        self.batch("BEGIN").await?;
        let result = match f(self).await {
            Ok(value) => self.commit().await.map(|()| value),
            Err(fault) => Err(fault),
        };
        if result.is_err() {
            self.roll_back().await;
        }
        result
    }

    /// The end of a transaction.
    pub async fn commit(&self) -> Result<(), Fault> {
        self.doubtful.store(false, Ordering::SeqCst);
        // Without the time limit: a server whose limit ends the wait for its standby answers that it has committed.
        self.batch("SET LOCAL statement_timeout = 0; COMMIT").await.map_err(Fault::at_commit)?;
        if self.doubtful.swap(false, Ordering::SeqCst) {
            self.driver.abort();
            return Err(Fault::Doubt("the server warned at the commit: it may not be on the standby".to_owned()));
        }
        Ok(())
    }

    /// A connection on which not even that works is not used again.
    pub async fn roll_back(&self) {
        if !self.client.is_closed() && self.batch("ROLLBACK").await.is_err() {
            self.driver.abort();
        }
    }
}

/// The rows of a statement that is sent when this is first polled.
pub(super) type Answer<'a> = Pin<Box<dyn Future<Output = Result<Vec<Row>, Fault>> + 'a>>;

/// Poll all, each time in this order, until all are done: what they send goes out in this order and in one piece. Gives the first fault.
pub(super) async fn in_order(futures: Vec<Answer<'_>>) -> Result<Vec<Vec<Row>>, Fault> {
    let mut futures: Vec<_> = futures.into_iter().map(|future| (Some(future), None)).collect();
    std::future::poll_fn(|cx| {
        let mut pending = false;
        for (future, result) in &mut futures {
            if let Some(running) = future {
                match running.as_mut().poll(cx) {
                    Poll::Ready(value) => (*future, *result) = (None, Some(value)),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    futures.into_iter().filter_map(|(_, result)| result).collect()
}
