//! Who may talk to this scheduler over TCP: its own certificate authority, one-time tokens with which a node or a person
//! joins, certificates that are renewed by their holders and can be taken back.
//!
//! | file | noun |
//! |---|---|
//! | `authority.rs` | the key that signs, and what it signs |
//! | `ledger.rs` | tokens and certificates given out, kept as one file that is replaced whole |
//!
//! Nothing here reads a clock: `now` comes in.

mod authority;
mod ledger;

pub use authority::Authority;
pub use ledger::{Ledger, Refused};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// How long a certificate of a node or a person holds; see [`slipway_wire::CERTIFICATE_SECONDS`].
pub const VALIDITY: SignedDuration = SignedDuration::from_secs(slipway_wire::CERTIFICATE_SECONDS as i64);

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Takes jobs, under its own name only.
    Node,
    /// Submits, watches, cancels.
    Developer,
    /// Also gives out tokens and takes certificates back.
    Admin,
}

impl Role {
    /// The word used in certificates, tokens and flags.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Node => "node",
            Role::Developer => "developer",
            Role::Admin => "admin",
        }
    }

    /// The role of that word.
    #[must_use]
    pub fn of(word: &str) -> Option<Role> {
        [Role::Node, Role::Developer, Role::Admin].into_iter().find(|r| r.as_str() == word)
    }
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Name of the node or person; of a peer on the Unix socket, the user's name.
    pub name: String,
    /// What it may do.
    pub role: Role,
}

/// What a joined node or person holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Its certificate.
    pub certificate_pem: String,
    /// The authority that servers and clients trust.
    pub ca_pem: String,
}

/// What a TLS server of this scheduler presents.
pub struct ServerIdentity {
    /// Its certificate, for the names given.
    pub certificate_pem: String,
    /// The certificate's key.
    pub key_pem: String,
    /// The authority of its clients.
    pub ca_pem: String,
}

/// The authority and the ledger of one scheduler.
pub struct Access {
    authority: Authority,
    ledger: Mutex<Ledger>,
}

/// The folder of the authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A file of it.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// Read or write.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What is in it.
    #[error("{} does not hold what it should: {why}; restore it from a backup, or remove the folder and join all nodes anew", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The certificate library.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
}

impl Access {
    /// Opens the authority in `folder`, or makes one.
    ///
    /// # Errors
    /// When the folder cannot be read or written, or holds something else.
    pub fn open(folder: &Path, now: Timestamp) -> Result<Access, AccessError> {
        Ok(Access {
            authority: Authority::open(folder, now)?,
            ledger: Mutex::new(Ledger::open(folder.join("ledger.json"))?),
        })
    }

    /// What a server presents that is reached under `names` (host names or addresses).
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn server(&self, names: &[String], now: Timestamp) -> Result<ServerIdentity, AccessError> {
        self.authority.server(names, now)
    }

    /// A one-time token for a node or person of that name: `slipway-SECRET.AUTHORITY`. Only the secret's hash is kept;
    /// the second half is the authority's certificate (DER, base64url), so that who joins knows whom it talks to.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub fn mint(&self, name: &str, role: Role, valid: SignedDuration, now: Timestamp) -> Result<String, Refused> {
        let secret = self.ledger().mint(name, role, valid, now)?;
        Ok(format!("{secret}.{}", self.authority.as_base64url()))
    }

    /// Trades a token for a certificate over the key of the request.
    ///
    /// # Errors
    /// [`Refused`] for an unknown, used or expired token, another name, or a request that is none.
    pub fn redeem(&self, token: &str, name: &str, csr_pem: &str, now: Timestamp) -> Result<Issued, Refused> {
        let token = token.split('.').next().unwrap_or(token);
        let mut ledger = self.ledger();
        let caller = ledger.check(token, name, now)?;
        let (issued, serial) = self.authority.issue(&caller, csr_pem, now)?;
        ledger.redeemed(token, &caller, serial, now + VALIDITY)?;
        Ok(issued)
    }

    /// A new certificate for who presents a good one.
    ///
    /// # Errors
    /// As [`Access::identify`], or a request that is none.
    pub fn renew(&self, certificate_der: &[u8], csr_pem: &str, now: Timestamp) -> Result<Issued, Refused> {
        let caller = self.identify(certificate_der, now)?;
        let (issued, serial) = self.authority.issue(&caller, csr_pem, now)?;
        self.ledger().issued(&caller, serial, now + VALIDITY)?;
        Ok(issued)
    }

    /// Whose certificate that is. TLS has checked the signature; this checks that it is still good.
    ///
    /// # Errors
    /// [`Refused`] for one that was taken back, has expired, or was not given out here.
    pub fn identify(&self, certificate_der: &[u8], now: Timestamp) -> Result<Caller, Refused> {
        let serial = authority::serial_of(certificate_der)?;
        self.ledger().holder(&serial, now)
    }

    /// Takes back all certificates and tokens of that name; says how many.
    ///
    /// # Errors
    /// When there are none, or the ledger cannot be written.
    pub fn revoke(&self, name: &str) -> Result<usize, Refused> {
        self.ledger().revoke(name)
    }

    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        // A panic in another thread cannot leave the ledger half changed: it is replaced whole.
        self.ledger.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
