//! Tokens and certificates: who is let in, and who is turned away.

use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, KeyPair};
use slipway_scheduler::access::{Access, Caller, Refused, Role, VALIDITY};

const HOUR: SignedDuration = SignedDuration::from_hours(1);

fn now() -> Timestamp {
    "2026-06-01T12:00:00Z".parse().unwrap()
}

fn request() -> String {
    CertificateParams::default().serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

fn der(pem: &str) -> Vec<u8> {
    x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1.contents
}

#[test]
fn token_is_traded_once_for_a_certificate_of_its_name_and_role() {
    let folder = tempfile::tempdir().unwrap();
    let access = Access::open(folder.path(), now()).unwrap();
    let token = access.mint("node-1", Role::Node, HOUR, now()).unwrap();
    let issued = access.redeem(&token, "node-1", &request(), now()).unwrap();
    let caller = access.identify(&der(&issued.certificate_pem), now()).unwrap();
    assert_eq!(caller, Caller { name: "node-1".into(), role: Role::Node });
    assert!(matches!(access.redeem(&token, "node-1", &request(), now()), Err(Refused::Token)));
}

#[test]
fn token_of_another_name_or_past_its_time_is_refused_and_not_used_up() {
    let folder = tempfile::tempdir().unwrap();
    let access = Access::open(folder.path(), now()).unwrap();
    let token = access.mint("node-1", Role::Node, HOUR, now()).unwrap();
    assert!(matches!(access.redeem(&token, "node-2", &request(), now()), Err(Refused::OtherName { .. })));
    assert!(matches!(access.redeem(&token, "node-1", &request(), now() + HOUR), Err(Refused::TokenExpired(_))));
    assert!(matches!(access.redeem(&token, "node-1", "no request", now()), Err(Refused::Request(_))));
    assert!(access.redeem(&token, "node-1", &request(), now()).is_ok());
}

#[test]
fn certificate_taken_back_expired_or_of_a_stranger_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let access = Access::open(folder.path(), now()).unwrap();
    let token = access.mint("ada", Role::Developer, HOUR, now()).unwrap();
    let issued = access.redeem(&token, "ada", &request(), now()).unwrap();
    let certificate = der(&issued.certificate_pem);
    assert!(matches!(access.identify(&certificate, now() + VALIDITY), Err(Refused::Expired(..))));
    assert_eq!(access.revoke("ada").unwrap(), 1);
    assert!(matches!(access.identify(&certificate, now()), Err(Refused::Revoked(_))));
    assert!(matches!(access.renew(&certificate, &request(), now()), Err(Refused::Revoked(_))));
    assert!(matches!(access.revoke("nobody"), Err(Refused::NoSuchName(_))));

    let elsewhere = tempfile::tempdir().unwrap();
    let other = Access::open(elsewhere.path(), now()).unwrap();
    let token = other.mint("ada", Role::Admin, HOUR, now()).unwrap();
    let strange = other.redeem(&token, "ada", &request(), now()).unwrap();
    assert!(matches!(access.identify(&der(&strange.certificate_pem), now()), Err(Refused::Stranger)));
}

#[test]
fn renewed_certificate_is_the_same_caller_and_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let access = Access::open(folder.path(), now()).unwrap();
    let token = access.mint("node-1", Role::Node, HOUR, now()).unwrap();
    let first = access.redeem(&token, "node-1", &request(), now()).unwrap();
    let later = now() + VALIDITY - HOUR;
    let second = access.renew(&der(&first.certificate_pem), &request(), later).unwrap();
    drop(access);
    let access = Access::open(folder.path(), later).unwrap();
    let caller = access.identify(&der(&second.certificate_pem), now() + VALIDITY + HOUR).unwrap();
    assert_eq!(caller, Caller { name: "node-1".into(), role: Role::Node });
    assert_eq!(first.ca_pem, second.ca_pem, "the authority outlives a restart");
}

#[test]
fn request_cannot_choose_its_own_name_or_become_an_authority() {
    let folder = tempfile::tempdir().unwrap();
    let access = Access::open(folder.path(), now()).unwrap();
    let token = access.mint("node-1", Role::Node, HOUR, now()).unwrap();
    let mut wish = CertificateParams::new(vec!["scheduler".to_owned()]).unwrap();
    wish.distinguished_name.push(rcgen::DnType::CommonName, "admin");
    let csr = wish.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    let issued = access.redeem(&token, "node-1", &csr, now()).unwrap();
    let bytes = der(&issued.certificate_pem);
    let (_, certificate) = x509_parser::parse_x509_certificate(&bytes).unwrap();
    assert_eq!(certificate.subject().to_string(), "CN=node-1, OU=node");
    assert!(certificate.subject_alternative_name().unwrap().is_none());
    assert!(!certificate.is_ca());
}
