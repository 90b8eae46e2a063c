//! `aether doctor` on machines and files that have something wrong.

use crate::program::command;
use serde_json::Value;
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

/// Of one node of a cluster.
fn cluster_file(dir: &Path, listen: &str, store: &str) {
    let text = format!(
        "[node]\ninstances_small = 10\ninstances_large = 1\n[server]\naot_cache_dir = \"cache\"\n\
         [cluster]\nname = \"three\"\nstore = {store:?}\nidentity = \"identity\"\n\
         [[cluster.node]]\nname = \"a\"\nlisten = {listen:?}\ndata_dir = \"data\"\n\
         [[cluster.node]]\nname = \"b\"\nlisten = \"127.0.0.1:1\"\ndata_dir = \"data-b\"\n"
    );
    std::fs::write(dir.join("cluster.toml"), text).unwrap();
}

#[track_caller]
fn good(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Its findings, and whether it found the machine good.
fn doctor(dir: &Path) -> (Vec<Value>, bool) {
    let asked = ["doctor", "cluster.toml", "--name", "a", "--output", "json"];
    let output = command().args(asked).current_dir(dir).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let findings = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    (findings, output.status.success())
}

fn find<'a>(findings: &'a [Value], check: &str, text: &str) -> Option<&'a Value> {
    findings.iter().find(|finding| finding["check"] == check && finding["text"].as_str().unwrap().contains(text))
}

#[track_caller]
fn assert_found(findings: &[Value], mark: &str, check: &str, texts: &[&str]) {
    let found = find(findings, check, texts[0]).unwrap_or_else(|| panic!("{check}: {texts:?} in {findings:#?}"));
    assert_eq!(found["mark"], mark, "{found}");
    assert!(texts.iter().all(|text| found["text"].as_str().unwrap().contains(text)), "{texts:?} in {found}");
}

#[test]
fn a_taken_port_an_expired_certificate_and_a_database_that_is_not_there_are_found_and_how_to_mend_them_said() {
    let dir = tempfile::tempdir().unwrap();
    let (taken, gone) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let (listen, database) = (taken.local_addr().unwrap().to_string(), gone.local_addr().unwrap());
    drop(gone);
    cluster_file(dir.path(), &listen, &format!("postgres://aether:secret@{database}/aether"));
    good(&command().args(["cluster", "init-ca", "ca", "--name", "three"]).current_dir(dir.path()).output().unwrap());
    let issue = ["cluster", "issue", "a", "--ca", "ca", "--out", "identity", "--host", "127.0.0.1"];
    good(&command().args(issue).current_dir(dir.path()).output().unwrap());
    let (findings, well) = doctor(dir.path());
    assert!(!well);
    assert_found(&findings, "bad", "port", &[&listen, "stop who has it", "listen"]);
    assert_found(&findings, "bad", "database", &[&database.to_string(), "start it, or correct `store`"]);
    assert_found(&findings, "ok", "certificate", &["good for 89 days"]);
    assert_found(&findings, "warn", "peer", &["node b does not answer", "start it"]);
    assert_found(&findings, "ok", "machine", &["room for 10 small"]);
    assert!(!findings.iter().any(|finding| finding["text"].as_str().unwrap().contains("secret")), "{findings:#?}");
    drop(taken);
    expire(&dir.path().join("identity"));
    let (findings, _) = doctor(dir.path());
    assert_found(&findings, "ok", "port", &[&listen, "free"]);
    assert_found(&findings, "bad", "certificate", &["has run out", "aether cluster issue a"]);
}

/// A certificate of the same node that ran out in 2020.
fn expire(identity: &Path) {
    let mut parameters = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    parameters.subject_alt_names.push(rcgen::SanType::URI("spiffe://three/node/a".try_into().unwrap()));
    (parameters.not_before, parameters.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2020, 2, 1));
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    std::fs::write(identity.join("node.pem"), certificate.pem()).unwrap();
}

#[test]
fn an_admin_address_for_everybody_without_tls_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let text = "[node]\ninstances_small = 10\ninstances_large = 1\n[server]\naot_cache_dir = \"cache\"\n[admin]\nlisten = \"0.0.0.0:0\"\n";
    std::fs::write(dir.path().join("node.toml"), text).unwrap();
    let output = command().args(["doctor", "node.toml"]).current_dir(dir.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("BAD  certificate") && said.contains("set admin.tls_cert and admin.tls_key"), "{said}");
}

#[test]
fn the_gateways_certificate_is_looked_at_as_the_admin_addresss_is() {
    let dir = tempfile::tempdir().unwrap();
    let pair = |name: &str, last_year: i32| {
        let mut parameters = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        (parameters.not_before, parameters.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(last_year, 2, 1));
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(dir.path().join(format!("{name}.pem")), parameters.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(dir.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
    };
    pair("good", 2500);
    pair("old", 2021);
    let look = |gateway: &str| {
        let text = "[node]\ninstances_small = 10\ninstances_large = 1\n[server]\naot_cache_dir = \"cache\"\n[gateway]\n";
        std::fs::write(dir.path().join("node.toml"), format!("{text}{gateway}")).unwrap();
        let output = command().args(["doctor", "node.toml"]).current_dir(dir.path()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let with =
        |cert: &str, key: &str| look(&format!("listen = \"0.0.0.0:0\"\ntls_cert = \"{cert}.pem\"\ntls_key = \"{key}.key\"\n"));
    let open = look("listen = \"0.0.0.0:0\"\n");
    assert!(open.contains("BAD  certificate") && open.contains("set gateway.tls_cert and gateway.tls_key"), "{open}");
    let good = with("good", "good");
    assert!(!good.contains("BAD  certificate") && good.contains("good.pem is good for"), "{good}");
    let old = with("old", "old");
    assert!(old.contains("BAD  certificate") && old.contains("has run out"), "{old}");
    let mixed = with("good", "old");
    assert!(mixed.contains("BAD  certificate") && mixed.contains("belong together"), "{mixed}");
}
