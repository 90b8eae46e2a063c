//! Opening a database: its tables, what is refused, encryption, and what a URL must never show.

use crate::postgres::Server;
use crate::support::{Cluster, LONG, batch, commit, info, world};
use aether_store::{Directory, PostgresOptions, PostgresStore, Store, StoreError};
use std::path::Path;
use std::time::Duration;

fn refused(result: Result<PostgresStore, StoreError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_database_of_a_build_too_new_is_refused_and_that_of_a_neighbour_is_not() {
    let cluster = Cluster::new();
    drop(cluster.open());
    cluster.sql("INSERT INTO migration VALUES (3, 1)");
    drop(cluster.open());
    cluster.sql("INSERT INTO migration VALUES (4, 4)");
    let error = refused(PostgresStore::open(&cluster.server.url(), cluster.options()));
    assert!(error.contains("install a newer build"), "{error}");
}

#[test]
fn a_role_without_the_right_to_make_tables_opens_what_is_there() {
    let cluster = Cluster::new();
    drop(cluster.open());
    let schema = &cluster.schema;
    cluster.sql(&format!(
        "CREATE ROLE {schema}_user LOGIN PASSWORD 'secret'; GRANT USAGE ON SCHEMA {schema} TO {schema}_user; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {schema}_user"
    ));
    let url = cluster.server.url().replace("postgres@", &format!("{schema}_user:secret@"));
    let store = PostgresStore::open(&url, cluster.options()).unwrap();
    store.join(&info("n1"), LONG).unwrap();
    let claim = store.claim(&world("town")).unwrap();
    commit(&store, batch("town", claim, "k", Some(b"v"))).unwrap();
    assert!(!format!("{store:?}").contains("secret"), "{store:?}");
}

#[test]
fn what_cannot_be_opened_is_refused_at_once_and_without_the_password() {
    let server = Server::start(&[]);
    let port = server.port();
    let options = PostgresOptions::default;
    let error = refused(PostgresStore::open(&format!("postgres://postgres:secret@127.0.0.1:{port}/nowhere"), options()));
    assert!(error.contains("nowhere") && !error.contains("secret"), "{error}");
    let error = refused(PostgresStore::open(&format!("postgres://nobody:secret@127.0.0.1:{port}/postgres"), options()));
    assert!(error.contains("nobody") && !error.contains("secret"), "{error}");
    for schema in ["", "Town", "a b", "1a", "a\"; DROP TABLE world; --", &"a".repeat(64)] {
        let options = PostgresOptions { schema: Some(schema.into()), ..options() };
        assert!(refused(PostgresStore::open(&server.url(), options)).contains("is no schema"));
    }
    let hasty = PostgresOptions { statement_timeout: Duration::ZERO, ..options() };
    assert!(refused(PostgresStore::open(&server.url(), hasty)).contains("statement timeout"));
}

#[test]
fn an_encrypted_connection_checks_the_certificate_and_its_name() {
    let tls = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls");
    let server = Server::start_with(&["ssl=on", "ssl_cert_file=server.pem", "ssl_key_file=server.key"], |data| {
        for file in ["server.pem", "server.key"] {
            std::fs::copy(tls.join(file), data.join(file)).unwrap();
        }
        std::fs::set_permissions(data.join("server.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    });
    let authority = tls.join("authority.pem");
    let url = |host: &str, mode: &str, authority: &Path| {
        format!("postgres://postgres@{host}:{}/postgres?sslmode={mode}&sslrootcert={}", server.port(), authority.display())
    };
    for mode in ["require", "verify-full"] {
        let store = PostgresStore::open(&url("localhost", mode, &authority), PostgresOptions::default()).unwrap();
        store.join(&info("n1"), LONG).unwrap();
        assert_eq!(store.nodes().unwrap().len(), if mode == "require" { 1 } else { 2 });
        assert_eq!(
            server.sql(
                "SELECT count(*) > 0 FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl AND application_name = 'aether'"
            ),
            ["t"]
        );
        assert_eq!(
            server.sql(
                "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE NOT ssl AND application_name = 'aether'"
            ),
            ["0"]
        );
    }
    // Another authority's certificate, and a name that is not in it.
    let other = tls.join("server.pem");
    for url in [url("localhost", "require", &other), url("127.0.0.1", "require", &authority)] {
        let error = refused(PostgresStore::open(&url, PostgresOptions::default()));
        assert!(error.contains("certificate"), "{error}");
    }
}

#[test]
fn an_encrypted_connection_to_a_server_without_encryption_is_refused() {
    let cluster = Cluster::new();
    let authority = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls/authority.pem");
    let url = format!("{}?sslmode=require&sslrootcert={}", cluster.server.url(), authority.display());
    let error = refused(PostgresStore::open(&url, cluster.options()));
    assert!(error.contains("TLS"), "{error}");
}
