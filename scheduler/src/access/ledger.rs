//! Tokens and certificates given out: one JSON file, replaced whole at every change.

use super::authority::{file, hex, write_private};
use super::{AccessError, Caller, Role};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// Why a caller is turned away.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Nobody gave out that token, or it was used already.
    #[error("this token is unknown or was used already: ask an administrator for a new one (`slipway token`)")]
    Token,
    /// The token's time is over.
    #[error("this token expired at {0}: ask an administrator for a new one (`slipway token`)")]
    TokenExpired(Timestamp),
    /// The token is for another name.
    #[error("this token is for {expected:?}, not for {got:?}")]
    OtherName {
        /// Whose it is.
        expected: String,
        /// Who came with it.
        got: String,
    },
    /// The signing request.
    #[error("the certificate request cannot be signed: {0}")]
    Request(String),
    /// What was presented is no certificate.
    #[error("the certificate cannot be read: {0}")]
    Certificate(String),
    /// It was not given out here.
    #[error("this certificate was not given out by this scheduler")]
    Stranger,
    /// It was taken back.
    #[error("the certificate of {0:?} was taken back")]
    Revoked(String),
    /// Its time is over.
    #[error("the certificate of {0:?} expired at {1}: join again with a new token")]
    Expired(String, Timestamp),
    /// Nobody of that name.
    #[error("nobody of the name {0:?} holds a certificate or a token")]
    NoSuchName(String),
    /// The ledger cannot be written.
    #[error(transparent)]
    Ledger(#[from] AccessError),
}

/// Tokens and certificates given out.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    entries: Entries,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Entries {
    /// By the SHA-256 of the token, hex.
    tokens: BTreeMap<String, Entry>,
    /// By serial number, hex.
    certificates: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    name: String,
    role: Role,
    until: Timestamp,
    #[serde(default)]
    revoked: bool,
}

impl Ledger {
    pub(super) fn open(path: PathBuf) -> Result<Ledger, AccessError> {
        let entries = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| AccessError::Content { path: path.clone(), why: e.to_string() })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Entries::default(),
            Err(e) => return Err(file("read", &path)(e)),
        };
        Ok(Ledger { path, entries })
    }

    pub(super) fn mint(
        &mut self,
        name: &str,
        role: Role,
        valid: SignedDuration,
        now: Timestamp,
    ) -> Result<String, Refused> {
        let mut bytes = [0u8; 24];
        getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
        let token = format!("slipway-{}", hex(&bytes));
        let entry = Entry { name: name.to_owned(), role, until: now + valid, revoked: false };
        self.change(|entries| {
            entries.tokens.retain(|_, t| t.until > now);
            entries.certificates.retain(|_, c| c.until > now);
            entries.tokens.insert(digest(&token), entry);
        })?;
        Ok(token)
    }

    /// Whose token that is; it stays good until [`Ledger::redeemed`].
    pub(super) fn check(&self, token: &str, name: &str, now: Timestamp) -> Result<Caller, Refused> {
        let entry = self.entries.tokens.get(&digest(token)).ok_or(Refused::Token)?;
        if entry.until <= now {
            return Err(Refused::TokenExpired(entry.until));
        }
        if entry.name != name {
            return Err(Refused::OtherName { expected: entry.name.clone(), got: name.to_owned() });
        }
        Ok(Caller { name: entry.name.clone(), role: entry.role })
    }

    /// The token is used up and the certificate given out, in one change.
    pub(super) fn redeemed(
        &mut self,
        token: &str,
        caller: &Caller,
        serial: String,
        until: Timestamp,
    ) -> Result<(), Refused> {
        self.change(|entries| {
            entries.tokens.remove(&digest(token));
            entries.certificates.insert(serial, entry(caller, until));
        })
    }

    pub(super) fn issued(&mut self, caller: &Caller, serial: String, until: Timestamp) -> Result<(), Refused> {
        self.change(|entries| {
            entries.certificates.insert(serial, entry(caller, until));
        })
    }

    pub(super) fn holder(&self, serial: &str, now: Timestamp) -> Result<Caller, Refused> {
        let entry = self.entries.certificates.get(serial).ok_or(Refused::Stranger)?;
        if entry.revoked {
            return Err(Refused::Revoked(entry.name.clone()));
        }
        if entry.until <= now {
            return Err(Refused::Expired(entry.name.clone(), entry.until));
        }
        Ok(Caller { name: entry.name.clone(), role: entry.role })
    }

    pub(super) fn revoke(&mut self, name: &str) -> Result<usize, Refused> {
        let mut count = 0;
        self.change(|entries| {
            for entry in entries.certificates.values_mut().filter(|e| e.name == name && !e.revoked) {
                entry.revoked = true;
                count += 1;
            }
            let before = entries.tokens.len();
            entries.tokens.retain(|_, t| t.name != name);
            count += before - entries.tokens.len();
        })?;
        if count == 0 { Err(Refused::NoSuchName(name.to_owned())) } else { Ok(count) }
    }

    /// Changes the entries on disk first: what could not be written did not happen.
    fn change(&mut self, change: impl FnOnce(&mut Entries)) -> Result<(), Refused> {
        let mut entries = self.entries.clone();
        change(&mut entries);
        let text = serde_json::to_string_pretty(&entries).expect("maps with string keys are JSON");
        write_private(&self.path, &text)?;
        self.entries = entries;
        Ok(())
    }
}

fn entry(caller: &Caller, until: Timestamp) -> Entry {
    Entry { name: caller.name.clone(), role: caller.role, until, revoked: false }
}

fn digest(token: &str) -> String {
    hex(&Sha256::digest(token.as_bytes()))
}
