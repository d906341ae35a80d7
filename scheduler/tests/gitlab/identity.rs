//! Who we are to the server: registration, verification, tokens, the machine's identity.

use crate::site::{Site, hello, job, pace};
use serde_json::json;
use slipway_double::server::TOKEN;
use slipway_double::{Double, Settings, Status};
use slipway_scheduler::upstream::gitlab::client::Client;
use slipway_scheduler::upstream::gitlab::config::UpstreamConfig;
use slipway_scheduler::upstream::gitlab::register::{self, LegacyOptions, RegisterError};
use slipway_scheduler::upstream::gitlab::system_id;

fn client(double: &Double) -> Client {
    Client::new(&UpstreamConfig::new("g", double.url(), TOKEN), pace()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn point_18_authentication_token_is_only_verified() {
    let double = Double::start(Settings::default()).await;
    let registration = register::verify(&client(&double), TOKEN, "s_0123456789ab", None).await.unwrap();
    assert_eq!((registration.id, registration.token.as_str()), (42, TOKEN));
    let seen = double.state().seen.clone();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].is("POST", "/runners/verify"));
    assert_eq!(seen[0].json()["system_id"], json!("s_0123456789ab"));
    assert_eq!(seen[0].json()["info"]["features"]["cancel_gracefully"], json!(true));
    double.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn point_18_registration_token_makes_a_runner_with_its_options() {
    let double = Double::start(Settings::default()).await;
    double.state().registration_token = "GR1348941abc".into();
    let options = LegacyOptions { tags: vec!["a".into(), "b".into()], locked: Some(true), ..LegacyOptions::default() };
    let made = register::register_legacy(&client(&double), "GR1348941abc", &options, None).await.unwrap();
    assert_eq!(double.state().runners[&made.token].options["tag_list"], json!("a,b"));
    let none = LegacyOptions { run_untagged: Some(false), ..LegacyOptions::default() };
    let made = register::register_legacy(&client(&double), "GR1348941abc", &none, None).await.unwrap();
    assert_eq!(double.state().runners[&made.token].options["run_untagged"], json!(true), "without tags it must be");
    let wrong = register::register_legacy(&client(&double), "wrong", &none, None).await;
    assert!(matches!(wrong, Err(RegisterError::Forbidden(_))), "{wrong:?}");
    double.state().registration_token.clear();
    let off = register::register_legacy(&client(&double), "GR1348941abc", &none, None).await;
    assert!(matches!(off, Err(RegisterError::RegistrationTokensOff(_))), "{off:?}");
    double.assert_clean();
}

#[test]
fn point_19_system_id_is_kept_and_made_anew_when_malformed() {
    let dir = tempfile::tempdir().unwrap();
    let first = system_id::load(dir.path()).unwrap();
    assert!(system_id::is_well_formed(&first), "{first}");
    assert_eq!(system_id::load(dir.path()).unwrap(), first);
    assert_eq!(system_id::load(dir.path()).unwrap(), first);
    let file = dir.path().join(system_id::FILE);
    std::fs::write(&file, format!("  {first}\n")).unwrap();
    assert_eq!(system_id::load(dir.path()).unwrap(), first, "blanks are dropped");
    for bad in [&b"nonsense"[..], b"", b"\xff\xfe"] {
        std::fs::write(&file, bad).unwrap();
        let again = system_id::load(dir.path()).unwrap();
        assert!(system_id::is_well_formed(&again));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), again);
    }
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn point_19_restarts_are_one_machine_to_the_server() {
    let mut site = Site::started(Settings::default(), hello()).await;
    for _ in 0..2 {
        site.double.called(1, "POST", "/runners/verify").await;
        site.stop().await;
        site.double.state().seen.clear();
        site.start();
    }
    site.double.called(1, "POST", "/runners/verify").await;
    assert_eq!(site.double.state().runners[TOKEN].managers.len(), 1);
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn point_20_plain_text_answer_of_old_servers_is_understood() {
    let double = Double::start(Settings { legacy_verify: true, ..Settings::default() }).await;
    let registration = register::verify(&client(&double), TOKEN, "s_0123456789ab", None).await.unwrap();
    assert_eq!((registration.id, registration.token.as_str()), (0, TOKEN));
    let wrong = register::verify(&client(&double), "glrt-wrong", "s_0123456789ab", None).await;
    assert!(matches!(wrong, Err(RegisterError::Forbidden(_))));
    double.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn point_21_unregister_leaves_other_machines_of_the_runner_alone() {
    let double = Double::start(Settings::default()).await;
    let client = client(&double);
    for machine in ["s_000000000001", "s_000000000002"] {
        register::verify(&client, TOKEN, machine, None).await.unwrap();
    }
    register::unregister(&client, TOKEN, "s_000000000001").await.unwrap();
    {
        let state = double.state();
        let left: Vec<&String> = state.runners[TOKEN].managers.keys().collect();
        assert_eq!(left, ["s_000000000002"]);
    }
    register::unregister(&client, TOKEN, "s_00000never01").await.unwrap();
    double.state().runners.insert("old-token".into(), Default::default());
    register::unregister(&client, "old-token", "s_000000000001").await.unwrap();
    assert!(!double.state().runners.contains_key("old-token"));
    double.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn token_with_an_end_is_renewed_kept_and_used_after_a_restart() {
    let mut site = Site::new(Settings::default(), hello()).await;
    // Three quarters of four seconds: renewed three seconds from now at the latest.
    let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(4);
    site.double.state().runners.get_mut(TOKEN).unwrap().expires_at = Some(end.to_string());
    site.start();
    site.double.called(1, "POST", "/runners/reset_authentication_token").await;
    let next = format!("{TOKEN}-next");
    let asks = |s: &mut slipway_double::state::State| {
        let asked = s.seen.iter().any(|s| s.path == "/jobs/request" && s.header("runner-token") == next);
        asked.then_some(())
    };
    site.double.until("it asks with the new token", asks).await;
    site.stop().await;
    site.double.state().seen.clear();
    site.start();
    site.double.until("it asks with the new token after a restart", asks).await;
    assert_eq!(site.run(job("with the new token")).await.status, Status::Success);
    site.assert_clean().await;
}
