//! A fleet over TCP: nodes and people join with one-time tokens, and who has no good certificate is turned away.

#[path = "support/site.rs"]
#[allow(dead_code, reason = "each test binary uses a part of it")]
mod site;

use site::{Finished, Process, Site};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

/// A port that was free a moment ago.
fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

struct Fleet {
    site: Site,
    https: String,
    _scheduler: Process,
}

fn fleet() -> Fleet {
    let port = port();
    let mut site = Site::new();
    site.scheduler = format!("listen = \"127.0.0.1:{port}\"");
    let config = site.config();
    let scheduler = site.start(&["scheduler", "--config", config.to_str().unwrap()], "ready");
    Fleet { site, https: format!("https://127.0.0.1:{port}"), _scheduler: scheduler }
}

impl Fleet {
    /// A token, asked for over the Unix socket.
    fn token(&self, name: &str, role: &str) -> String {
        self.site.slipway(&["token", name, "--role", role]).expect(0).out().trim().to_owned()
    }

    fn join(&self, name: &str, token: &str) -> (PathBuf, Finished) {
        let folder = self.site.path(&format!("identity-{name}"));
        let identity = folder.to_str().unwrap();
        let end = self.site.slipway(&[
            "join",
            "--scheduler",
            &self.https,
            "--name",
            name,
            "--token",
            token,
            "--identity",
            identity,
        ]);
        (folder, end)
    }

    /// A command over TCP with that identity.
    fn with(&self, identity: &Path, args: &[&str]) -> Finished {
        let mut all = args.to_vec();
        all.extend(["--scheduler", &self.https, "--identity", identity.to_str().unwrap()]);
        self.site.slipway(&all)
    }
}

#[test]
fn node_joins_with_a_token_and_runs_a_job_that_a_person_with_a_certificate_submits() {
    let fleet = fleet();
    let (node, joined) = fleet.join("node-2", &fleet.token("node-2", "node"));
    joined.expect(0);
    let text = fs::read_to_string(fleet.site.config()).unwrap().replace("name = \"node\"", "name = \"node-2\"");
    let config = fleet.site.path("node-2.toml");
    fs::write(&config, text).unwrap();
    let _runner = fleet.site.start(
        &[
            "runner",
            "--config",
            config.to_str().unwrap(),
            "--scheduler",
            &fleet.https,
            "--identity",
            node.to_str().unwrap(),
        ],
        "ready",
    );
    let (ada, joined) = fleet.join("ada", &fleet.token("ada", "developer"));
    joined.expect(0);
    let repository = fleet
        .site
        .repository("repository", &[(".gitlab-ci.yml", "a:\n  image: alpine:latest\n  script: [echo hello]\n")]);
    let submitted = fleet.with(&ada, &["submit", repository.path.to_str().unwrap(), "--wait", "--json"]).expect(0);
    let pipeline = submitted.json().remove(0);
    assert_eq!(pipeline["status"], "success", "{pipeline:#}");
    assert_eq!(pipeline["submitted_by"], "ada");
    assert_eq!(pipeline["jobs"][0]["node"], "node-2");
    // A node's certificate is for jobs: it does not submit, and a developer gives out no tokens.
    assert!(fleet.with(&node, &["submit", repository.path.to_str().unwrap()]).code() != 0);
    assert!(fleet.with(&ada, &["token", "eve", "--role", "admin"]).code() != 0);
}

#[test]
fn stranger_used_token_and_revoked_certificate_are_refused() {
    let fleet = fleet();
    let token = fleet.token("ada", "developer");
    let (ada, joined) = fleet.join("ada", &token);
    joined.expect(0);
    fleet.with(&ada, &["status"]).expect(0);

    let (_, again) = fleet.join("ada-again", &token);
    assert_eq!(again.code(), 1, "{}", again.all());
    assert!(again.err().contains("refused"), "{}", again.all());

    // Without a certificate: the same address, spoken to with an identity of another scheduler.
    let other = self::fleet();
    let (stranger, joined) = other.join("eve", &other.token("eve", "admin"));
    joined.expect(0);
    fs::copy(ada.join("ca.pem"), stranger.join("ca.pem")).unwrap();
    let refused = fleet.with(&stranger, &["status"]);
    assert_eq!(refused.code(), 1, "{}", refused.all());

    fleet.site.slipway(&["revoke", "ada"]).expect(0);
    let refused = fleet.with(&ada, &["status"]);
    assert_eq!(refused.code(), 1, "{}", refused.all());
    assert!(refused.err().contains("taken back"), "{}", refused.all());
}

#[test]
fn plain_text_over_a_network_is_not_spoken() {
    let site = Site::new();
    let end = site.slipway(&["status", "--scheduler", "http://192.0.2.1:7443"]);
    assert_eq!(end.code(), 1);
    assert!(end.err().contains("plain text"), "{}", end.all());
}
